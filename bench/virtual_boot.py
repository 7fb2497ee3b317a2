"""The regression gate of a boot, in virtual time: virtual nanoseconds to init and to the reply, and exits.

Usage: virtual_boot.py [--record], called by tools/dev test boot. Boots guests in an emulated machine of
its own whose clock counts instructions (hutch machine start --virtual-time), and compares with
bench/virtual_boot.json: times within 0.5 %, exits within 2. The same boots with a tick (4 ms) more must
be caught. Prints TAP. --record writes that file anew, after a change that is meant.
"""

import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HUTCH = ROOT / "build/cli/hutch"
KEPT = ROOT / "bench/virtual_boot.json"
TIMES = {"init": 0.005, "reply_boot": 0.005}  # parts of the kept value
COUNTS = {"user_exits_until_init": 2, "user_exits": 2}
BOOTS = 3
PATIENCE_S = 420


def share():
    return pathlib.Path(os.environ.get("HUTCH_SHARE", ROOT / "build/share/hutch"))


def inputs():
    """What the numbers depend on beside our code: kernel, image, machine, QEMU."""
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True)
    digest = {name: hashlib.sha256((share() / name).read_bytes()).hexdigest()[:16]
              for name in ("vmlinux", "min.erofs", "machine/vmlinuz", "machine/initrd")}
    return {"qemu": version.stdout.splitlines()[0], **digest}


def extents():
    """Where the layer has data, which the machine cannot tell over 9p."""
    parts = []
    with open(share() / "layer.ext4", "rb") as file:
        size, offset = os.fstat(file.fileno()).st_size, 0
        while offset < size:
            try:
                data = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            parts.append(f"{data}+{offset - data}")
    return ",".join(parts)


def measure():
    """{row: (median, median with a tick more)}"""
    with tempfile.TemporaryDirectory(prefix="hutch-virtual-") as folder:
        environment = dict(os.environ, HUTCH_RUNTIME=folder, HUTCH_SHARE=str(share()))
        results, log = pathlib.Path(folder) / "results.json", pathlib.Path(folder) / "log"

        def hutch(*words):
            return subprocess.run([HUTCH, *words], env=environment, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=200)

        started = hutch("machine", "start", "--virtual-time")
        try:
            if started.returncode != 0:
                raise RuntimeError(started.stderr.strip())
            given = json.dumps({"what": "boot", "count": BOOTS, "memory_mib": 512, "image": "min",
                                "peers": [], "json_file": str(results)})
            words = " ".join(map(shlex.quote, ["env", "HUTCH_IN_MACHINE=1", f"HUTCH_LAYER_EXTENTS={extents()}",
                                               str(ROOT / "build/bench/hutch-bench"), given]))
            # While nothing runs, the machine's clock races, and connections to it time out: so it works
            # by itself, and leaves a file.
            hutch("machine", "exec", "-n", "--", "sh", "-c",
                  f"setsid sh -c {shlex.quote(words + '; echo $? >>' + str(log) + '.status')} "
                  f"</dev/null >{log} 2>&1 &")
            end = time.monotonic() + PATIENCE_S
            status = pathlib.Path(f"{log}.status")
            while not (status.exists() and status.read_text().strip()):
                if time.monotonic() > end:
                    raise RuntimeError("the boots do not end")
                time.sleep(0.5)
            if status.read_text().strip() != "0":
                raise RuntimeError(log.read_text().strip())
            return {row["name"]: (row["ours"], row["peer"]) for row in json.loads(results.read_text())}
        finally:
            hutch("machine", "rm")
            for path in (results, log, pathlib.Path(f"{log}.status")):
                path.unlink(missing_ok=True)


def differences(kept, values):
    """What is not as it was, in words."""
    found = []
    for row, part in TIMES.items():
        if abs(values[row] / kept[row] - 1) > part:
            found.append(f"{row}: {values[row]:.3f} ms, was {kept[row]:.3f} ({values[row] / kept[row] - 1:+.2%})")
    for row, band in COUNTS.items():
        if abs(values[row] - kept[row]) > band:
            found.append(f"{row}: {values[row]:.0f}, was {kept[row]:.0f}")
    return found


def tap(number, name, problems):
    print(f"{'not ok' if problems else 'ok'} {number} - {name}")
    for problem in problems:
        print(f"# {problem}")
    if problems:
        print("# when that is meant: tools/dev test boot --record")


def main():
    measured = measure()
    ours = {row: measured[row][0] for row in (*TIMES, *COUNTS)}
    slower = {row: measured[row][1] for row in (*TIMES, *COUNTS)}
    if sys.argv[1:] == ["--record"]:
        KEPT.write_text(json.dumps({"inputs": inputs(), "values": ours}, indent=2) + "\n")
        print(f"# {KEPT.relative_to(ROOT)} is written: {ours}")
    kept = json.loads(KEPT.read_text())
    print("1..2")
    # Of another kernel or QEMU the numbers say nothing; that a slow-down is seen does not depend on them.
    if (now := inputs()) != kept["inputs"]:
        changed = ", ".join(name for name in now if now[name] != kept["inputs"].get(name))
        print(f"ok 1 - a boot takes the virtual time and the exits that it took # SKIP the numbers are of "
              f"another {changed}; compare with the commit before, then: tools/dev test boot --record")
        kept["values"] = ours
    else:
        tap(1, "a boot takes the virtual time and the exits that it took", differences(kept["values"], ours))
    tap(2, "a boot that takes a tick longer is caught",
        [] if differences(ours, slower) else [f"{ours} and {slower} are taken for the same"])
    print(f"# {ours}")
    sys.exit(0)


if __name__ == "__main__":
    main()
