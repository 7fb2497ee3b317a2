"""Signals to commands in real guests, and what is left of a guest that was ended."""

import signal
import time

import harness
from harness import finish, read_until, signal_program, start

TRAPS = signal_program(exits=["TERM"], tells=["INT", "HUP", "QUIT", "USR1", "USR2"])
STUBBORN = signal_program(ignores=["INT", "TERM"])


def begin(script):
    process = start("run", "--image", "min", "--", *script)
    ready = b"ready" in read_until(process.stdout, b"ready\n")
    return process, ready


def tests(tap):
    process, ready = begin(TRAPS)
    tap.check("a command that traps signals runs", ready, process.stderr.read() if not ready else "")
    for name in ("HUP", "QUIT", "USR1", "USR2", "INT"):
        process.send_signal(getattr(signal, "SIG" + name))
        text = read_until(process.stdout, b"got " + name.encode(), 30)
        tap.check(f"SIG{name} reaches the command", name.encode() in text, (text, process.poll()))
    # INT came before: this is the second ending, which ends the machine.
    process.send_signal(signal.SIGTERM)
    tap.equal("a second ending signal ends the machine", finish(process, 60), 143)
    process, _ = begin(TRAPS)
    process.send_signal(signal.SIGTERM)
    tap.equal("SIGTERM reaches the command, whose exit code counts", (b"got TERM" in read_until(process.stdout, b"TERM", 30), finish(process, 60)), (True, 3))
    process, _ = begin(STUBBORN)
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    tap.equal("a command may ignore Ctrl-C", process.poll(), None)
    process.send_signal(signal.SIGINT)
    tap.equal("but not twice", finish(process, 60), 130)
    tap.check("no VMM is left", harness.eventually(lambda: not harness.processes("--control-fd"), 20), harness.processes("--control-fd"))
    process, _ = begin(STUBBORN)
    tap.equal("a VMM runs", len(harness.processes("--control-fd")), 1)
    process.kill()
    finish(process)
    tap.check("SIGKILL to hutch leaves nothing behind", harness.eventually(lambda: not harness.processes("--control-fd"), 20), harness.processes("--control-fd"))
    process = start("run", "--image", "min", "--", "true")
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    tap.equal("SIGTERM while the guest boots ends hutch", finish(process, 60), 143)
    tap.check("and the guest", harness.eventually(lambda: not harness.processes("--control-fd"), 20))
