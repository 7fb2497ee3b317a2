"""The system call tables of the VMM and the broker: every rule is needed by something that a guest can cause.

What the threads call once their filters are in force is recorded with strace: while the VMM's own tests
run guests of a few instructions, and while real guests use disks, vsock, entropy, the console and the network. A rule
that none of it needs is a hole without a purpose. (A call without a rule kills the process, so every other
test sees that.)
"""

import os
import pathlib
import re
import shutil
import stat

import harness
from internet import Internet

KINDS = ("main", "vcpu", "block", "network", "broker")
CALL = re.compile(r"^(\d+)\s+(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed)(.*)$")
# One heap serves all threads, so what malloc calls in one it may call in each.
HEAP = ("brk", "mmap", "munmap")
# What a guest does so that the tables are used: the layer's file system, a raw disk with holes and
# zeroes, entropy, a lot of output and input.
WORK = """
set -e
dd if=/dev/zero of=/file bs=64k count=64 conv=fsync 2>/dev/null
rm /file; sync; fstrim / || true
dd if=/dev/vdc of=/dev/null bs=4k count=4 2>/dev/null
dd if=/dev/zero of=/dev/vdc bs=4k count=4 conv=fsync 2>/dev/null
blkdiscard -z -l 1048576 /dev/vdc
blkdiscard -l 1048576 /dev/vdc
head -c 65536 /dev/hwrng >/dev/null
head -c 4000000 /dev/zero
cat >/dev/null
"""
# And the network's: both ways, an end by either side, one that is cut, nobody there, many at a time.
NETWORK = """
curl -sS -o /dev/null http://plain.test:$HTTP/echo/3000000
head -c 3000000 /dev/zero | curl -sS -o /dev/null -T - http://plain.test:$HTTP/size
curl -sS -m 2 -o /dev/null http://plain.test:$HTTP/endless
curl -sS -o /dev/null http://plain.test:1/
curl -sS -Z --parallel-max 20 -H "Connection: close" -o /dev/null "http://plain.test:$HTTP/echo/[1000-1090]"
true
"""
BROKER_ROWS = ["B01", "B08", "B09", "B14", "B17", "B31"]
# How a program ends by itself; here its launcher is faster.
ENDS = {"broker": ("exit_group",)}


def rules(kind):
    """The rules of one table: (line, system call, what must stand in its arguments)."""
    room = "broker" if kind == "broker" else "vmm"
    for line in (harness.ROOT / room / "seccomp" / f"{kind}.rules").read_text().splitlines():
        words = line.split("#")[0].split()
        if words:
            yield " ".join(words), words[0], words[3] if len(words) == 4 else ""


def recorded(trace):
    """The calls of each kind of thread, with their arguments, after its filter was installed."""
    calls = {kind: set() for kind in KINDS}
    kinds, narrow = {}, set()
    for line in trace.read_text(errors="replace").splitlines():
        match = CALL.match(line)
        if not match:
            continue
        thread, call, rest = match.groups()
        name = re.search(r'PR_SET_NAME, "hutch-(\w+)"', rest)
        if call == "prctl" and name:
            kinds[thread] = name.group(1)
        elif call == "seccomp" and thread in kinds:
            narrow.add(thread)
        elif thread in narrow:
            calls[kinds[thread]].add((call, rest))
    return calls


def traced_share(folder, trace):
    """A share folder whose hutch-vmm runs under strace.

    Without ioctl: a boot enters the guest many thousand times, and the tiny guests cover those rules.
    """
    share = pathlib.Path(folder) / "share"
    share.mkdir(parents=True)
    for entry in harness.SHARE.iterdir():
        if entry.name != "hutch-vmm":
            (share / entry.name).symlink_to(entry.resolve())
    traced(share / "hutch-vmm", (harness.SHARE / "hutch-vmm").resolve(), f"--seccomp-bpf -e trace='!ioctl' -o '{trace}'")
    return share


def traced(wrapper, program, options):
    """A program in the place of another that runs it under strace."""
    wrapper.write_text(f'#!/bin/sh\nexec strace -f {options} -qq "{program}" "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def broker_traces(tap, folder):
    """The broker's calls while rows of tests/egress use it: what they resolve, connect to and are refused."""
    wrapper = pathlib.Path(folder) / "hutch-broker"
    traced(wrapper, harness.ROOT / "build/broker/hutch-broker", f"-ff -o '{folder}/broker.trace'")
    rows = harness.run(harness.ROOT / "tests/egress/run", "--level", "library", *BROKER_ROWS,
                       env=harness.environment(HUTCH_BROKER=str(wrapper)), limit=2 * harness.LIMIT)
    tap.equal("the rows of tests/egress hold while the broker is traced", rows.code, 0, rows)
    # Over IPv6, in a namespace that leads nowhere.
    far = ("2606:2800:220:1::1", 80)
    dial = f"import errno, socket\ntry: socket.create_connection({far}, 10)\nexcept OSError as error: print(errno.errorcode[error.errno])"
    refused = harness.run("unshare", "--user", "--map-root-user", "--net", harness.ROOT / "build/tests/net/tap_gateway", "--broker", wrapper, "--ipv6",
                          "--allow", f"[{far[0]}]:{far[1]}", "--dns", "127.0.0.1", "/usr/bin/python3", "-c", dial)
    tap.check("an address of IPv6 that is allowed, and not there, is refused", "ECONNREFUSED" in refused.text, refused)
    for path in pathlib.Path(folder).glob("broker.trace.*"):
        # One file a process; its number is in the name.
        number = path.suffix[1:]
        path.write_text("".join(f"{number} {line}\n" for line in path.read_text(errors="replace").splitlines()))
        yield path


def tests(tap):
    if not shutil.which("strace"):
        tap.check("strace is installed", False, "apt-get install strace")
        return
    calls = {kind: set() for kind in KINDS}
    with harness.scratch() as folder:
        tiny = pathlib.Path(folder) / "tiny.trace"
        unit = harness.run("strace", "-f", "-qq", "-o", tiny, harness.ROOT / "build/vmm/vmm_test",
                           # Tracing makes them wait.
                           "--test-case-exclude=until the first KVM_RUN*,a step that blocks*")
        tap.equal("the VMM's tests pass while they are traced", unit.code, 0, unit)

        trace = pathlib.Path(folder) / "guest.trace"
        disk = pathlib.Path(folder) / "disk.img"
        disk.touch()
        os.truncate(disk, 16 << 20)
        share = traced_share(folder, trace)
        worked = harness.guest(
            "--console", "--entropy-device", "--boot-timeout", "3m", "--timings", "--disk", disk, "--", "sh", "-c", WORK, stdin=bytes(1_000_000),
            env=harness.environment(HUTCH_SHARE=str(share)))
        tap.equal("a guest uses its devices while it is traced", worked.code, 0, worked)
        traces = [tiny, trace, *broker_traces(tap, folder)]
        # Its own file: strace begins each anew.
        traces.append(pathlib.Path(folder) / "network.trace")
        share = traced_share(pathlib.Path(folder, "network"), traces[-1])
        with Internet(folder) as internet:
            worked = harness.hutch("run", *internet.words("plain.test"), "--net-log", pathlib.Path(folder) / "net.jsonl",
                                   "-e", f"HTTP={internet.http_port}", "--boot-timeout", "3m", "--", "sh", "-c", NETWORK,
                                   env=harness.environment(HUTCH_SHARE=str(share)), limit=2 * harness.LIMIT)
        tap.equal("a guest uses its network while it is traced", worked.code, 0, worked)
        for path in traces:
            for kind, seen in recorded(path).items() if path.exists() else ():
                calls[kind] |= seen
    heap = {(name, rest) for seen in calls.values() for name, rest in seen if name in HEAP}
    for kind in KINDS:
        tap.check(f"threads of kind {kind} were recorded", len(calls[kind]) > 10, calls[kind])
        unneeded = [
            line for line, call, argument in rules(kind)
            if call not in ENDS.get(kind, ()) and not any(name == call and argument in rest for name, rest in calls[kind] | heap)
        ]
        tap.check(f"every rule of {kind} is needed", not unneeded, "\n".join(unneeded))
