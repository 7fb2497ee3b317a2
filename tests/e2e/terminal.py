"""hutch at a terminal, with real guests."""

import time

import harness
from harness import Terminal


def tests(tap):
    screen = Terminal("run", "--image", "min", rows=37, columns=113)
    tap.check("without a command there is a shell at a terminal", screen.wait_for(b"# "), screen.output)
    screen.type(b"tty; stty size; echo $TERM:done-1\r")
    tap.check("of our size", screen.wait_for(b"37 113"), screen.output)
    tap.check("and type", screen.wait_for(b"vt100:done-1"), screen.output)
    screen.resize(45, 127)
    time.sleep(2)
    screen.type(b"stty size\r")
    tap.check("a new size passes through", screen.wait_for(b"45 127"), screen.output)
    screen.type(b"cat\r")
    time.sleep(1)
    screen.type(b"typed\r")
    tap.check("what is typed is echoed once and read once", screen.wait_for(b"typed\r\ntyped\r\n"), screen.output)
    screen.type(b"\x04echo status-$?\r")
    tap.check("Ctrl-D ends the input", screen.wait_for(b"status-0"), screen.output)
    screen.type(b"sleep 300\r")
    time.sleep(1.5)
    screen.type(b"\x03")
    screen.type(b"echo status-$?\r")
    tap.check("Ctrl-C interrupts the command", screen.wait_for(b"status-130"), screen.output)
    screen.type(b"sleep 300\r")
    time.sleep(1.5)
    screen.type(b"\x1a")
    tap.check("Ctrl-Z stops it, under job control", screen.wait_for(b"Stopped"), screen.output)
    screen.type(b"exit; exit 6\r")
    tap.equal("the shell's exit code passes through", screen.finish(), 6, screen.output)
    with harness.scratch() as folder:
        file = f"{folder}/errors"
        screen = Terminal("run", "--image", "min", "--timings", "--json", "--", "sh", "-c", "tty; echo out; exit 3", stderr=file)
        code = screen.finish()
        report = harness.last_json(open(file).read()) or {}
        tap.equal("with standard error elsewhere, the command's output is on the terminal", (code, b"/dev/pts/" in screen.output, b"out" in screen.output), (3, True, True), screen.output)
        tap.check("and hutch's own report is not", report.get("path") == "boot" and b"marks_us" not in screen.output, open(file).read())
