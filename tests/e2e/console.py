"""The serial console: beside a command, and of stock Debian kernels with nothing of ours: the cloud
kernel as the bzImage of its package, and the generic one as an ELF file, which is entered by PVH."""

import pathlib
import shutil

import harness
from harness import Output, Terminal, finish, guest, start

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
mount -t sysfs sysfs /sys
echo "booted $(uname -r)"
exec setsid sh -c 'exec sh -i </dev/ttyS0 >/dev/ttyS0 2>&1'
"""


def cpio(entries):
    """A newc archive of (name, mode, content)."""
    archive = b""
    for number, (name, mode, content) in enumerate(entries + [("TRAILER!!!", 0, b"")], start=1):
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return archive


def shell_initramfs(path):
    busybox = pathlib.Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    folders = [(name, 0o40755, b"") for name in ("bin", "dev", "proc", "sys")]
    links = [(f"bin/{name}", 0o120777, b"busybox") for name in ("sh", "mount", "setsid", "uname", "reboot", "echo", "cat")]
    # The console must be there before devtmpfs is; an empty regular file would do for no one.
    path.write_bytes(cpio(folders + links + [("bin/busybox", 0o100755, busybox), ("init", 0o100755, INIT.encode())]))


def tests(tap):
    result = guest("--console", "--", "echo", "output")
    tap.equal("beside a command the console is on standard error", result.out, b"output\n", result)
    tap.check("with the kernel's messages", "Linux version" in result.errors, result)
    result = guest("--", "true")
    tap.equal("without --console a run is quiet", result.errors, "")
    # The unit tests run on this host's KVM, which may inject it anyhow; Linux 6.1 of the machine does not.
    result = harness.inside(harness.ROOT / "build/vmm/vmm_test", "--test-case=an interrupt that the PIC raised*")
    tap.check("an interrupt that the PIC raised too early arrives", result.code == 0 and "1 passed" in result.text, result)
    cloud, generic = harness.SHARE / "stock-vmlinuz", harness.SHARE / "machine/vmlinuz"
    if not cloud.exists() or not generic.exists() or not shutil.which("busybox"):
        tap.check("Debian's kernels and busybox are there", False, "tools/dev test e2e")
        return
    with harness.scratch() as folder:
        initramfs = pathlib.Path(folder) / "initramfs.cpio"
        shell_initramfs(initramfs)
        words = ["run", "--initramfs", initramfs, "--console", "--cpus", "1"]
        process = start(*words, "--kernel", cloud)
        console = Output(process.stdout)
        tap.check("Debian's cloud kernel boots to our init", console.wait_for(b"booted 6.") and console.wait_for(b"-cloud-amd64"), console.seen)
        # The shell reads its input once it has opened the port.
        tap.check("whose shell asks for a command", console.wait_for(b"# "), console.seen)
        process.stdin.write(b"echo $((6 * 7)) from the shell\n")
        process.stdin.flush()
        tap.check("and reads it from the serial console", console.wait_for(b"42 from the shell"), console.seen)
        process.stdin.write(b"reboot -f\n")
        process.stdin.flush()
        code = finish(process, 60)
        tap.equal("the guest ends by its own reset", code, 0, process.stderr.read().decode())
        screen = Terminal(*words, "--kernel", generic)
        tap.check("at a terminal the generic kernel's is interactive", screen.wait_for(b"booted 6.") and screen.wait_for(b"# "), screen.output[-2000:])
        screen.type(b"echo typed-$((1 + 1))\r")
        tap.check("and what is typed reaches the shell", screen.wait_for(b"typed-2"), screen.output[-500:])
        screen.type(b"\x1d")
        tap.equal("Ctrl-] leaves it", screen.finish(60), 0, screen.output[-500:])
