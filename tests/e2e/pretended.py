"""The launcher alone: hutch with a pretended VMM (tests/cli/fake-vmm) and the real agent.

Needs no KVM and no guest, so what a machine can do to its launcher is tried quickly and exactly.
The agent runs on this host; commands run here.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import harness
from harness import Terminal, finish, read_until, run, signal_program


class Pretended:
    """A share folder whose hutch-vmm is the pretended one."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        share = self.folder / "share"
        share.mkdir()
        shutil.copy(harness.ROOT / "tests/cli/fake-vmm", share / "hutch-vmm")
        for name in ("vmlinux", "initramfs.cpio", "core.erofs"):
            (share / name).write_bytes(b"")
        # A sparse base with data in two places.
        with open(share / "layer.ext4", "wb") as file:
            file.truncate(64 << 20)
            file.seek(1 << 20)
            file.write(b"first")
            file.seek(63 << 20)
            file.write(b"second")
        self.agent = str(harness.SHARE / "hutch-agent")
        runtime = self.folder / "runtime"
        self.env = harness.environment(HUTCH_SHARE=str(share), HUTCH_RUNTIME=str(runtime), HOME="/")

    def words(self, *options, fake=(), agent=True, command=("true",)):
        line = " ".join(["fake.agent=" + self.agent if agent else "", *fake])
        return ["run", "--cmdline", line, *options, "--", *command]

    def run(self, *options, stdin=b"", **words):
        return harness.hutch(*self.words(*options, **words), stdin=stdin, env=self.env, limit=60)

    def start(self, *options, **words):
        return harness.start(*self.words(*options, **words), env=self.env)

    def left_over(self):
        """Processes of this test that should be gone."""
        listed = run("ps", "-eo", "pid=,args=").text
        return [line for line in listed.splitlines() if str(self.folder) in line and "ps -eo" not in line]


def exit_codes(tap, fake):
    for code in (0, 1, 2, 124, 125, 126, 127, 255):
        tap.equal(f"exit code {code} passes through", fake.run(command=("sh", "-c", f"exit {code}")).code, code)
    for number in (1, 9, 15):
        result = fake.run(command=("sh", "-c", f"kill -{number} $$"))
        tap.equal(f"signal {number} becomes {128 + number}", result.code, 128 + number, result)
    result = fake.run(command=("/no/such/program",))
    tap.equal("a missing command is 127", result.code, 127)
    tap.check("and says so", "/no/such/program: command not found" in result.errors, result)
    result = fake.run(command=("/etc/passwd",))
    tap.equal("a file that is no program is 126", result.code, 126)
    tap.check("and says why", "Permission denied" in result.errors, result)
    for option, value in (("--user", "nobody-of-that-name"), ("--workdir", "/no/such/folder")):
        result = fake.run(option, value)
        tap.equal(f"a wrong {option} is 125", result.code, 125)
        tap.check("and is named", value in result.errors and option in result.errors, result)


def ends(tap, fake):
    for number, name in enumerate(
        ("power_off", "reset", "panic", "triple_fault", "kvm_internal_error", "host_error"), start=1
    ):
        result = fake.run("--json", fake=[f"fake.end={number}:100"], command=("sleep", "60"))
        tap.equal(f"a machine that ends by {name} is 125", result.code, 125, result)
        error = json.loads(result.err)["error"]
        tap.equal("its code names the reason", error["code"], name)
        tap.equal("the message and the remedy are the VMM's", (error["message"], error["hint"]),
                  ("the fake machine ended", "a remedy"))
        tap.equal("the console's control characters are gone", error["console"], "first line\nlast line [31mred")
    result = fake.run(fake=["fake.end=3:100"], command=("sleep", "60"))
    tap.check("the last lines of the console are shown", "\n  | last line" in result.errors, result)
    result = fake.run(fake=["fake.die=11:100"], command=("sleep", "60"))
    tap.check("a VMM that crashes is named with its signal", result.code == 125 and "SIGSEGV" in result.errors, result)
    result = fake.run(fake=["fake.die=31:100"], command=("sleep", "60"))
    tap.check("a forbidden system call is named", result.code == 125 and "SIGSYS" in result.errors, result)
    result = fake.run("--boot-timeout", "300ms", agent=False)
    tap.check("an agent that never answers is 125", result.code == 125 and "did not answer within 0.3 s" in result.errors, result)
    result = fake.run("--boot-timeout", "300ms", agent=False, fake=["fake.deaf"])
    tap.check("also when the VMM does not stop", result.code == 125 and "did not answer" in result.errors, result)
    tap.check("which is killed then", result.seconds < 10, result)
    result = fake.run(fake=["fake.garbage"])
    tap.check("a VMM that breaks its protocol is 125", result.code == 125 and "sent what it may not" in result.errors, result)
    result = fake.run(fake=["fake.agent-garbage"])
    tap.check("an agent that breaks its protocol is 125", result.code == 125 and "broke the protocol" in result.errors, result)


def streams(tap, fake):
    data = os.urandom(32 << 20)
    result = fake.run(command=("cat",), stdin=data)
    tap.check("32 MiB pass through standard input and output", result.out == data and result.code == 0, result.errors)
    result = fake.run(command=("sh", "-c", "echo out; echo err >&2"))
    tap.equal("the streams stay apart", (result.out, result.errors), (b"out\n", "err"))
    result = fake.run("--no-stdin", command=("cat",), stdin=b"not read")
    tap.equal("without standard input the command's is empty", (result.code, result.out), (0, b""))
    process = fake.start(command=("sh", "-c", "cat; echo end"))
    process.stdin.write(b"first\n")
    process.stdin.flush()
    tap.equal("input arrives while its end is open", read_until(process.stdout, b"first\n"), b"first\n")
    process.stdin.close()
    tap.equal("the end of input passes through", read_until(process.stdout, b"end\n"), b"end\n")
    tap.equal("and the command ends", finish(process), 0)
    quoted = subprocess.list2cmdline([harness.HUTCH, *fake.words(command=("yes",))])
    result = run("bash", "-c", f"{quoted} | head -n 2; exit ${{PIPESTATUS[0]}}", env=fake.env, limit=30)
    tap.equal("a reader that goes away ends the writer by SIGPIPE", (result.out, result.code), (b"y\ny\n", 141), result)
    process = fake.start(command=("yes",))
    time.sleep(1.5)
    rss = int(run("ps", "-o", "rss=", "-p", str(process.pid)).text)
    tap.check("output that nobody reads is not gathered", rss < 32 * 1024, f"{rss} KiB resident")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    tap.equal("and a second signal ends hutch although its output is blocked", finish(process, 20), 128 + signal.SIGINT)


def signals(tap, fake):
    for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2"):
        process = fake.start(command=signal_program(exits=[name]))
        read_until(process.stdout, b"ready\n")
        process.send_signal(getattr(signal, "SIG" + name))
        text = read_until(process.stdout, b"got")
        tap.equal(f"SIG{name} reaches the command", (text.split(b"\n")[0], finish(process)), (f"got {name}".encode(), 3))
    stubborn = signal_program(ignores=["INT", "TERM"])
    for number in (signal.SIGTERM, signal.SIGINT):
        process = fake.start(command=stubborn)
        read_until(process.stdout, b"ready\n")
        process.send_signal(number)
        time.sleep(0.5)
        tap.equal("a command may ignore a signal", process.poll(), None)
        process.send_signal(number)
        tap.equal(f"the second {number.name} ends it all the same", finish(process, 20), 128 + number)
    process = fake.start(agent=False)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    tap.equal("SIGTERM ends a boot", finish(process, 20), 143)
    process = harness.start(*fake.words(command=("bash", "-c", "trap 'echo got HUP' HUP; echo ready; sleep 2")),
                            env=fake.env, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    read_until(process.stdout, b"ready\n")
    process.send_signal(signal.SIGHUP)
    tap.equal("a signal that hutch was started to ignore (nohup) is not passed on",
              (process.stdout.read(), finish(process)), (b"", 0))
    start = time.monotonic()
    result = fake.run("--timeout", "500ms", command=("sleep", "60"))
    tap.check("a deadline is 124", result.code == 124 and "time limit" in result.errors, result)
    result = fake.run("--timeout", "500ms", command=stubborn)
    tap.check("also for a command that ignores SIGTERM", result.code == 124 and result.seconds < 10, result)
    result = fake.run("--timeout", "500ms", "--json", agent=False)
    tap.check("and before the command began", result.code == 124, result)
    tap.equal("as JSON", json.loads(result.err)["error"]["code"], "deadline")


def terminal(tap, fake):
    screen = Terminal(*fake.words(command=("bash", "-c", "tty; stty size; echo $TERM; read line; stty size; echo \"[$line]\"; exit 6")),
                      rows=33, columns=111, env=dict(fake.env, TERM="vt100"))
    tap.check("at a terminal the command gets one", screen.wait_for(b"/dev/pts/"), screen.output)
    tap.check("of the same size", screen.wait_for(b"33 111"), screen.output)
    tap.check("and type", screen.wait_for(b"vt100"), screen.output)
    screen.resize(44, 122)
    time.sleep(0.5)
    screen.type(b"typed\r")
    tap.check("a new size passes through", screen.wait_for(b"44 122"), screen.output)
    tap.check("what is typed arrives", screen.wait_for(b"[typed]"), screen.output)
    tap.equal("the exit code passes through", screen.finish(), 6)
    screen = Terminal(*fake.words(command=("bash", "-c", "trap 'echo interrupted; exit 4' INT; echo ready; sleep 30 & wait")), env=fake.env)
    screen.wait_for(b"ready")
    screen.type(b"\x03")
    tap.check("Ctrl-C interrupts the command", screen.wait_for(b"interrupted"), screen.output)
    tap.equal("and hutch lives on to say how it ended", screen.finish(), 4)
    screen = Terminal(*fake.words("--no-tty", command=("bash", "-c", "tty; exit 0")), env=fake.env)
    tap.equal("--no-tty gives none", (screen.finish(), b"not a tty" in screen.output), (0, True), screen.output)
    result = fake.run("--tty", command=("sh", "-c", "tty; stty size"))
    tap.check("--tty gives one where there is none", b"/dev/pts/" in result.out and b"24 80" in result.out, result)
    result = fake.run("--tty", command=("cat",), stdin=b"text\n")
    tap.check("whose input ends with ours", result.code == 0 and result.out.count(b"text") == 2, result)


def environment(tap, fake):
    file = fake.folder / "variables"
    file.write_text("# comment\nA=from file\nB='kept'\nFROM_HERE\n")
    env = dict(fake.env, FROM_HERE="here", ALSO="also")
    words = fake.words("-e", "A=1 2", "--env", "ALSO", "-e", "NOT_SET_ANYWHERE", "--env-file", file, command=("env",))
    found = dict(line.split("=", 1) for line in harness.hutch(*words, env=env).text.splitlines())
    tap.equal("-e counts more than --env-file", found.get("A"), "1 2")
    tap.equal("quotes in a file are kept", found.get("B"), "'kept'")
    tap.equal("a bare name in a file takes the value of here", found.get("FROM_HERE"), "here")
    tap.equal("so does one on the command line", found.get("ALSO"), "also")
    tap.check("and is not set when it has none", "NOT_SET_ANYWHERE" not in found, found)
    tap.check("nothing else of ours passes", "HUTCH_SHARE" not in found, found)
    tap.equal("--workdir", fake.run("--workdir", "/usr", command=("pwd",)).out, b"/usr\n")
    result = fake.run("-e", "BIG=" + "x" * 70000)
    tap.check("what does not fit is refused with a remedy", result.code == 125 and "at most" in result.errors, result)


def leftovers(tap, fake):
    tap.check("every VMM and agent so far is gone", harness.eventually(lambda: not fake.left_over()), fake.left_over())
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = fake.start(command=("bash", "-c", "echo ready; sleep 600"))
        read_until(process.stdout, b"ready\n")
        tap.check("a VMM runs", fake.left_over())
        process.send_signal(number)
        finish(process)
        tap.check(f"{number.name} to hutch leaves nothing behind", harness.eventually(lambda: not fake.left_over()), fake.left_over())
    # The files of private layers have no names.
    folder = fake.folder / "scratch"
    folder.mkdir()
    process = harness.start(*fake.words(command=("bash", "-c", "echo ready; sleep 600")), env=dict(fake.env, HUTCH_SCRATCH=str(folder)))
    read_until(process.stdout, b"ready\n")
    tap.equal("nor files while it runs", os.listdir(folder), [])
    vmm = [line.split()[0] for line in fake.left_over() if "hutch-vmm" in line and "--control-fd" in line]
    opened = {os.readlink(path): path for path in pathlib.Path(f"/proc/{vmm[0]}/fd").iterdir()}

    def is_writable(path):
        flags = pathlib.Path(f"/proc/{vmm[0]}/fdinfo/{path.name}").read_text().split("flags:")[1].split()[0]
        return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY

    private = [path for name, path in opened.items() if str(folder) in name]
    tap.check("the layer that the guest writes to is an empty file of its own",
              len(private) == 1 and is_writable(private[0]) and os.stat(private[0]).st_size == 0, opened)
    shared = [path for name, path in opened.items() if name.endswith("/layer.ext4")]
    tap.check("and its base is the shared one, to be read only", len(shared) == 1 and not is_writable(shared[0]), opened)
    environ = pathlib.Path(f"/proc/{vmm[0]}/environ").read_bytes()
    tap.equal("the VMM gets none of our environment", environ, b"")
    process.kill()
    finish(process)


def timings(tap, fake):
    result = fake.run("--timings", "--json", command=("sh", "-c", "echo noise >&2"))
    report = harness.last_json(result.errors)
    tap.check("the report is the last line of standard error", isinstance(report, dict), result)
    tap.check("marks follow each other", list(report["marks_us"].values()) == sorted(report["marks_us"].values()), report)
    tap.equal("counts have a total and parts", report["counts"]["user_exits_until_reply"],
              {"total": 41, "by_address": {"mmio/0xd0000050": 1, "port/0x3f8": 40}})
    result = fake.run("--timings")
    tap.check("without --json it is for a person", "reply" in result.errors and "ms" in result.errors, result)


def console(tap, fake):
    result = fake.run("--console", fake=["fake.echo=kernel-says"], command=("echo", "output"))
    tap.equal("beside a command the console goes to standard error", (result.out, "kernel-says" in result.errors), (b"output\n", True), result)
    words = ["run", "--console", "--kernel", fake.env["HUTCH_SHARE"] + "/vmlinux"]
    process = harness.start(*words, "--cmdline", "fake.echo=hello", env=fake.env)
    tap.check("without a command it is standard output", b"hello\n" in read_until(process.stdout, b"hello\n"))
    process.stdin.write(b"typed\n")
    process.stdin.flush()
    tap.check("and takes standard input", b"typed\n" in read_until(process.stdout, b"typed\n"))
    process.send_signal(signal.SIGTERM)
    tap.equal("SIGTERM ends it", finish(process), 143)
    tap.equal("a guest's power-off is its proper end",
              harness.hutch(*words, "--cmdline", "fake.echo=x fake.end=1:100", env=fake.env).code, 0)
    tap.equal("its panic is not", harness.hutch(*words, "--cmdline", "fake.echo=x fake.end=3:100", env=fake.env).code, 125)
    screen = Terminal(*words, "--cmdline", "fake.echo=hello", env=fake.env)
    screen.wait_for(b"hello")
    screen.type(b"\x1d")
    tap.equal("Ctrl-] leaves an interactive console", screen.finish(), 0, screen.output)


def tests(tap):
    if not (harness.SHARE / "hutch-agent").exists():
        tap.check("the agent is built", False, f"{harness.SHARE}/hutch-agent is missing: tools/dev build")
        return
    with harness.scratch() as folder:
        fake = Pretended(folder)
        for part in (exit_codes, ends, streams, signals, terminal, environment, timings, console, leftovers):
            print(f"# pretended: {part.__name__}", flush=True)
            part(tap, fake)
