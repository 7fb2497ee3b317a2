"""The emulated machine: its verbs, its death, and commands in it."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import time

import harness
from harness import Terminal, finish, hutch, read_until, signal_program, start


def status():
    return json.loads(hutch("machine", "status", "--json").text)


def is_running(process_id):
    try:
        state = pathlib.Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def verbs(tap):
    hutch("machine", "rm")
    tap.equal("there is no machine yet", (hutch("machine", "status").code, status()["state"]), (1, "absent"))
    result = hutch("machine", "exec", "--", "true")
    tap.check("a command in it says how to start it", result.code == 125 and "hutch machine start" in result.errors, result)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda _: hutch("machine", "start"), range(3)))
    tap.equal("three starts at a time succeed", [result.code for result in results], [0, 0, 0], "\n".join(map(str, results)))
    process_ids = {line.split()[2] for result in results for line in result.text.splitlines()}
    tap.equal("and start one machine", len(process_ids), 1, process_ids)
    tap.check("progress is shown", any("emulated machine, which is slow" in result.errors for result in results), results[0])
    # What was said to it before it was up must not arrive later: it would set the clock back.
    begin, result = time.time(), hutch("machine", "exec", "--", "sh", "-c", "sleep 4; date +%s.%N")
    tap.check("its clock goes right, also some seconds later",
              begin + 2 < float(result.text) < time.time() + 1, (begin, result, time.time()))
    # Without them a timer's interrupt that QEMU loses stops the machine.
    ticks = "awk '/ rtc0$/ { print $2 }' /proc/interrupts"
    result = hutch("machine", "exec", "--", "sh", "-c", f"a=$({ticks}); sleep 1; echo $(($({ticks}) - a))")
    tap.check("its clock chip interrupts all the time", result.text.strip().isdigit() and int(result.text) > 20, result)
    before = status()
    tap.equal("status", (before["state"], hutch("machine", "status").code), ("running", 0))
    tap.equal("starting it again finds it", (hutch("machine", "start").code, status()["pid"]), (0, before["pid"]))
    folder = pathlib.Path(before["folder"])
    tap.equal("its token and folder are ours alone", [oct((folder / name).stat().st_mode & 0o777) for name in ("token", "")], ["0o600", "0o700"])
    kernel = hutch("machine", "exec", "--", "dmesg").text
    # Otherwise the rate that KVM gives guests differs from the processor's, and their timers fire late.
    tap.check("KVM came after the clock was measured", 0 < kernel.find("Switched to clocksource tsc\n") < kernel.find("kvm: Nested Virtualization enabled"), kernel)
    words = pathlib.Path(f"/proc/{before['pid']}/cmdline").read_bytes()
    tap.check("the token is on no command line", (folder / "token").read_bytes().strip() not in words)


def security(tap):
    """A stranger on this host reaches the port, but not the agent."""
    import socket
    with socket.create_connection(("127.0.0.1", status()["port"]), timeout=30) as stranger:
        # Hello with a wrong token: version 1, no time, no entropy, no name.
        payload = (1).to_bytes(4, "little") + bytes(8) + bytes(4) + bytes(4) + (5).to_bytes(4, "little") + b"wrong"
        stranger.sendall(len(payload).to_bytes(4, "little") + bytes([1, 0, 0, 0]) + bytes(4) + payload)
        stranger.settimeout(30)
        try:
            answer = stranger.recv(100)
        except ConnectionResetError:
            answer = b""
    tap.equal("a wrong token gets no answer", answer, b"")
    tap.equal("and hurts nobody", hutch("machine", "exec", "--", "true").code, 0)


def commands(tap):
    with harness.scratch() as folder:
        result = hutch("machine", "exec", "--", "sh", "-c", "pwd; id -u; echo $HUTCH_IN_MACHINE; uname -n; cat; echo err >&2; exit 7", stdin=b"input\n", cwd=folder)
        tap.equal("a command has our folder, user and input", result.out.decode().split("\n")[:5],
                  [os.path.realpath(folder), str(os.getuid()), "1", "hutch-machine", "input"], result)
        tap.equal("its error output and exit code pass through", (result.errors, result.code), ("err", 7))
        (pathlib.Path(folder) / "here").write_text("seen")
        result = hutch("machine", "exec", "--", "sh", "-c", "cat here; echo there >there", cwd=folder)
        tap.equal("files are the same on both sides", (result.text, (pathlib.Path(folder) / "there").read_text()), ("seen", "there\n"))
        data = os.urandom(8 << 20)
        tap.check("8 MiB pass through", hutch("machine", "exec", "--", "cat", stdin=data).out == data)
    result = hutch("machine", "exec", "--", "env", env=harness.environment(OF_MINE="passed"))
    tap.check("our environment passes", "OF_MINE=passed" in result.text, result)
    tap.equal("a missing command is 127", hutch("machine", "exec", "--", "/no/such/program").code, 127)
    tap.equal("a signal becomes 128+n", hutch("machine", "exec", "--", "sh", "-c", "kill -9 $$").code, 137)
    process = start("machine", "exec", "--", *signal_program(exits=["TERM"]))
    read_until(process.stdout, b"ready")
    process.send_signal(signal.SIGTERM)
    tap.equal("signals pass through", (b"got" in read_until(process.stdout, b"got"), finish(process)), (True, 3))
    process = start("machine", "exec", "--", "bash", "-c", "trap '' HUP TERM; echo ready; exec -a left-behind sleep 600")
    read_until(process.stdout, b"ready")
    process.kill()
    finish(process)
    gone = harness.eventually(lambda: "left-behind" not in hutch("machine", "exec", "--", "ps", "-eo", "args=").text)
    tap.check("killing hutch ends its command", gone)
    screen = Terminal("machine", "exec", "--", "bash", "-c", "stty size; read x; stty size", rows=31, columns=99)
    tap.check("a terminal has our size", screen.wait_for(b"31 99"), screen.output)
    screen.resize(41, 109)
    time.sleep(1)
    screen.type(b"\r")
    tap.check("and follows it", screen.wait_for(b"41 109"), screen.output)
    tap.equal("and ends", screen.finish(), 0)


def death(tap):
    process_id = status()["pid"]
    process = start("machine", "exec", "--", "sleep", "600")
    time.sleep(2)
    os.kill(process_id, signal.SIGKILL)
    code = finish(process, 60)
    errors = process.stderr.read().decode()
    tap.equal("a machine that dies ends its commands with 125", code, 125, errors)
    tap.check("and says so", "machine" in errors and "hutch machine" in errors, errors)
    tap.equal("status calls it dead", status()["state"], "dead")
    result = hutch("machine", "start")
    tap.equal("start starts a new one", (result.code, status()["state"]), (0, "running"), result)
    tap.check("and says why", "has died" in result.errors, result)


def removal(tap):
    before = status()
    tap.equal("stop", hutch("machine", "stop").code, 0)
    tap.check("ends QEMU", not is_running(before["pid"]))
    tap.check("by a power-off of its own", "Power down" in (pathlib.Path(before["folder"]) / "console.log").read_text(errors="replace"))
    tap.equal("stopping again is no error", (hutch("machine", "stop").code, status()["state"]), (0, "absent"))
    tap.equal("rm", hutch("machine", "rm").code, 0)
    tap.check("leaves nothing", not pathlib.Path(before["folder"]).exists())
    # A process id that now belongs to somebody else is not to be killed.
    sleeper = harness.subprocess.Popen(["sleep", "600"])
    folder = pathlib.Path(before["folder"])
    folder.mkdir(mode=0o700)
    (folder / "machine.json").write_text(json.dumps({"pid": sleeper.pid, "began": 1, "port": 1, "memory": 1, "cpus": 1}))
    tap.equal("a recycled process id is not taken for the machine", status()["state"], "dead")
    hutch("machine", "rm")
    tap.equal("nor killed", sleeper.poll(), None)
    sleeper.kill()
    sleeper.wait()


def automatic(tap):
    """`hutch run` starts the machine where it needs it."""
    if harness.runs_on_kvm():
        tap.check("guests need no machine here", harness.guest("--", "true").code == 0 and status()["state"] == "absent")
        return
    result = harness.guest("--", "echo", "output")
    lines = result.err.decode().splitlines()
    tap.equal("hutch run starts the machine by itself", (result.code, result.out, status()["state"]), (0, b"output\n", "running"), result)
    tap.equal("and says so in one line", sum("using the emulated machine" in line for line in lines), 1, result)


def tests(tap):
    if not shutil.which("qemu-system-x86_64"):
        tap.check("QEMU is installed", False, "apt-get install qemu-system-x86")
        return
    for part in (verbs, security, commands, death, removal, automatic):
        print(f"# machine: {part.__name__}", flush=True)
        part(tap)
