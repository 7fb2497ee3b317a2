"""What the end-to-end tests share: running hutch, a terminal, TAP lines.

A topic is a file with a function `tests(tap)`. Every claim is one `tap.check(name, condition,
detail)`, which prints `ok` or `not ok`; a claim that cannot be looked at on this host is
`tap.skip(name, reason)`.
"""

import json
import os
import pathlib
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import fcntl
import termios

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HUTCH = os.environ.get("HUTCH") or str(ROOT / "build/cli/hutch")
SHARE = pathlib.Path(os.environ.get("HUTCH_SHARE") or ROOT / "build/share/hutch")
# A guest boots in seconds under emulation on a busy machine; nothing here should take longer.
LIMIT = 240


# What tells a slow, full or stuck emulated machine from a defect of ours.
STATE = r"""
printf '# machine: up %s load %s\n' "$(cut -d' ' -f1 /proc/uptime)" "$(cat /proc/loadavg)"
grep -E '^(MemAvailable|Shmem|Dirty):' /proc/meminfo | tr -s ' \n' ' '; echo
for folder in /sys/kernel/debug/kvm/*-*/vcpu*; do
  [ -d "$folder" ] || continue
  printf '# %s:' "${folder#/sys/kernel/debug/kvm/}"
  for name in exits halt_exits irq_injections guest_mode; do printf ' %s %s' $name "$(cat "$folder/$name" 2>/dev/null || cat "${folder%/vcpu*}/$name" 2>/dev/null)"; done; echo
done
dmesg | tail -n 4
"""


def print_state():
    """The state of this host and of its emulated machine, in a few lines."""
    with open("/proc/loadavg", encoding="ascii") as load:
        print(f"# host: load {load.read().strip()}, {os.cpu_count()} CPUs", flush=True)
    status = run(HUTCH, "machine", "status", limit=20)
    print("# " + (status.text + status.errors).strip().replace("\n", "; "), flush=True)
    if status.code == 0:
        state = run(HUTCH, "machine", "exec", "--", "sh", "-c", STATE, limit=30)
        for line in str(state).splitlines():
            print("# " + line.removeprefix("# "), flush=True)


class Tap:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.start = time.monotonic()

    def check(self, name, condition, detail=""):
        if condition:
            self.passed += 1
            self.start = time.monotonic()
            print(f"ok {self.number()} - {name}", flush=True)
        else:
            self.failed += 1
            print(f"not ok {self.number()} - {name}", flush=True)
            print(f"# {time.monotonic() - self.start:.1f} s after the last claim that held", flush=True)
            for line in str(detail).splitlines()[-30:]:
                print(f"# {line}", flush=True)
            if self.failed <= 3:
                print_state()
        return bool(condition)

    def equal(self, name, found, wanted, detail=""):
        return self.check(name, found == wanted, f"found  {found!r}\nwanted {wanted!r}\n{detail}")

    def skip(self, name, reason):
        self.skipped += 1
        print(f"ok {self.number()} - {name} # SKIP {reason}", flush=True)

    def number(self):
        return self.passed + self.failed + self.skipped


class Result:
    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    @property
    def text(self):
        return self.out.decode(errors="replace")

    @property
    def errors(self):
        """Standard error without the line that says where the guest runs."""
        lines = self.err.decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if "using the emulated machine" not in line)

    def __str__(self):
        return f"exit code {self.code} after {self.seconds:.1f} s\n{self.text[-2000:]}\n{self.errors[-2000:]}"


def environment(**more):
    values = {**os.environ, "HUTCH_SHARE": str(SHARE), **more}
    values.pop("NO_COLOR", None)
    return values


def run(*words, stdin=b"", env=None, limit=LIMIT, cwd=None):
    """Runs a program to its end. `stdin` are bytes, or None for no standard input at all."""
    start = time.monotonic()
    process = subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env or environment(),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        err += b"\n(the test gave up after %d s)" % limit
    return Result(process.returncode, out, err, time.monotonic() - start)


def hutch(*words, **options):
    return run(HUTCH, *words, **options)


def guest(*words, **options):
    """`hutch run` with the small image."""
    return hutch("run", "--image", "min", *words, **options)


def start(*words, env=None, **options):
    """A running hutch, with pipes."""
    return subprocess.Popen(
        [HUTCH, *[str(word) for word in words]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env or environment(),
        **options,
    )


def read_until(stream, wanted, limit=LIMIT):
    """Reads a pipe until it has said `wanted` (bytes); what came so far."""
    seen = b""
    end = time.monotonic() + limit
    while wanted not in seen:
        ready, _, _ = select.select([stream], [], [], max(0, end - time.monotonic()))
        data = os.read(stream.fileno(), 65536) if ready else b""
        if not data:
            break
        seen += data
    return seen


class Output:
    """What a process writes to a pipe, looked at from where the last look ended."""

    def __init__(self, stream):
        self.stream, self.seen, self.at = stream, b"", 0

    def wait_for(self, wanted, limit=LIMIT):
        """Reads until `wanted` (bytes) has come; whether it has."""
        end = time.monotonic() + limit
        while (found := self.seen.find(wanted, self.at)) < 0:
            ready, _, _ = select.select([self.stream], [], [], max(0, end - time.monotonic()))
            data = os.read(self.stream.fileno(), 65536) if ready else b""
            if not data:
                return False
            self.seen += data
        self.at = found + len(wanted)
        return True


def finish(process, limit=LIMIT):
    """The exit code of a process, None when it does not end."""
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


class Terminal:
    """hutch at a terminal of its own: its controlling one, of the given size."""

    def __init__(self, *words, rows=30, columns=100, env=None, stderr=None):
        self.output = b""
        self.process_id, self.fd = pty.fork()
        if self.process_id == 0:
            try:
                if stderr:
                    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT, 0o600), 2)
                os.execvpe(HUTCH, [HUTCH, *[str(word) for word in words]], env or environment(TERM="vt100"))
            finally:
                os._exit(99)
        self.resize(rows, columns)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.fd, text)

    def wait_for(self, wanted, limit=LIMIT):
        """Reads until the terminal shows `wanted`; whether it did."""
        end = time.monotonic() + limit
        while wanted not in self.output:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            if not ready:
                return False
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the other side is closed
                return False
            if not data:
                return False
            self.output += data
        return True

    def finish(self, limit=LIMIT):
        """Reads to the end; the exit code, or None when it does not end."""
        self.wait_for(b"\0never\0", limit)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            done, status = os.waitpid(self.process_id, os.WNOHANG)
            if done:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.process_id, signal.SIGKILL)
        os.waitpid(self.process_id, 0)
        return None


def runs_on_kvm():
    """Whether guests run on this host's own KVM."""
    return json.loads(hutch("doctor", "--json").text)["path"] == "kvm"


def inside(*words):
    """Runs a command where the guests' VMMs run: here, or in the emulated machine."""
    return run(*words) if runs_on_kvm() else hutch("machine", "exec", "--", *words)


def processes(pattern):
    """Command lines that hold `pattern`, where the VMMs run."""
    listed = inside("ps", "-eo", "pid=,args=").text
    return [line for line in listed.splitlines() if pattern in line and "ps -eo" not in line]


def eventually(condition, limit=10):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def last_json(text):
    """The JSON object on the last line, or None."""
    lines = text.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None


def scratch():
    return tempfile.TemporaryDirectory(prefix="hutch-test-")
