"""Disks of real guests."""

import pathlib
import subprocess

import harness
from harness import guest, hutch


def file_system(path, size="64M"):
    subprocess.run(["truncate", "-s", size, str(path)], check=True)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", str(path)], check=True, stdout=subprocess.DEVNULL)


def tests(tap):
    with harness.scratch() as folder:
        first, second = pathlib.Path(folder) / "first.img", pathlib.Path(folder) / "second.img"
        file_system(first)
        file_system(second)
        result = guest("--disk", first, "--disk", second, "--", "sh", "-c",
                       "mkdir -p /mnt/1 /mnt/2; mount /dev/vdc /mnt/1 && mount /dev/vdd /mnt/2 && echo kept >/mnt/1/file && cat /sys/block/vdd/serial")
        tap.equal("two disks can be mounted", result.code, 0, result)
        tap.check("and have names of their own", "disk1" in result.text, result)
        result = guest("--disk", f"{first}:ro", "--", "sh", "-c",
                       "mkdir /mnt/1; mount -o ro /dev/vdc /mnt/1 && cat /mnt/1/file; cat /sys/block/vdc/ro; echo x >/dev/vdc || echo refused")
        tap.equal("what was written is there after the guest's end, and :ro is read-only", result.text.split(), ["kept", "1", "refused"], result)
        check = subprocess.run(["/sbin/e2fsck", "-fn", str(first)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        tap.equal("the file system was left clean", check.returncode, 0, check.stdout)
        before = second.read_bytes()
        result = guest("--disk", f"{second}:ro", "--", "sh", "-c", "dd if=/dev/zero of=/dev/vdc bs=4096 count=1 oflag=direct")
        tap.check("a read-only disk cannot be written", result.code != 0 and second.read_bytes() == before, result)
        available = "cat /sys/class/misc/hw_random/rng_available"
        result = guest("--entropy-device", "--", "sh", "-c", f"{available}; head -c 8 /dev/hwrng | wc -c")
        tap.check("an entropy device is there on request", "virtio_rng" in result.text and result.text.split()[-1] == "8", result)
        result = guest("--", "sh", "-c", f"{available}; dmesg | grep -c 'crng init done'")
        tap.equal("else there is none, and random numbers all the same", result.text.split(), ["none", "1"], result)
        result = hutch("run", "--disk", f"{folder}/missing.img", "--", "true")
        tap.check("a missing disk is 125 and named", result.code == 125 and "missing.img" in result.errors, result)
