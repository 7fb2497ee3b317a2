#!/usr/bin/env python3
"""Reads the built initramfs back: what the kernel needs is in it, and the same program gives the
same bytes.

usage: initramfs_test.py MAKE-INITRAMFS PROGRAM INITRAMFS
"""

import pathlib
import stat
import subprocess
import sys
import tempfile

FIELDS = ["inode", "mode", "uid", "gid", "nlink", "mtime", "filesize", "devmajor", "devminor",
          "rdevmajor", "rdevminor", "namesize", "check"]


def read_archive(data):
    entries, at = {}, 0
    while True:
        assert data[at:at + 6] == b"070701", f"no newc header at byte {at}"
        values = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(len(FIELDS))]
        header = dict(zip(FIELDS, values))
        name = data[at + 110:at + 110 + header["namesize"]]
        assert name.endswith(b"\0"), "a name without its end"
        at = (at + 110 + header["namesize"] + 3) & ~3
        content = data[at:at + header["filesize"]]
        assert len(content) == header["filesize"], "the archive is cut off"
        at = (at + header["filesize"] + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert at == len(data), "bytes behind the trailer"
            return entries
        entries[name[:-1].decode()] = (header, content)


def main():
    maker, program, archive = (pathlib.Path(word) for word in sys.argv[1:])
    entries = read_archive(archive.read_bytes())
    assert len({header["inode"] for header, _ in entries.values()}) == len(entries), \
        "two entries of one inode number would be hard links"
    for header, _ in entries.values():
        assert (header["uid"], header["gid"], header["mtime"]) == (0, 0, 0)

    header, content = entries["init"]
    assert header["mode"] == stat.S_IFREG | 0o755
    assert content == program.read_bytes(), "/init is not the program"
    header, _ = entries["dev/console"]
    assert header["mode"] == stat.S_IFCHR | 0o600
    assert (header["rdevmajor"], header["rdevminor"]) == (5, 1)
    for folder in ("dev", "proc", "sys", "run", "tmp"):
        assert stat.S_ISDIR(entries[folder][0]["mode"]), f"/{folder} is missing"
    # The kernel makes entries in their order.
    names = list(entries)
    assert names.index("dev") < names.index("dev/console")

    with tempfile.TemporaryDirectory() as folder:
        again = pathlib.Path(folder) / "again"
        subprocess.run([maker, program, again], check=True)
        assert again.read_bytes() == archive.read_bytes(), "the same program gave another archive"
    print("ok 1 - the initramfs is what the kernel reads, and the same program gives the same bytes")


if __name__ == "__main__":
    main()
