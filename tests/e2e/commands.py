"""Commands in real guests: what they are given, and how they end."""

import os

import harness
from harness import guest, hutch

LOOK = r"""
echo "kernel=$(uname -r)"
echo "host=$(uname -n)"
echo "user=$(id -un)"
echo "folder=$(pwd)"
echo "cpus=$(nproc)"
echo "memory=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
echo "init=$(tr '\0' ' ' </proc/1/cmdline)"
echo "arguments=$#:$1:$2:$3"
echo "variable=$GIVEN"
echo "clock=$(date +%s)"
echo "protected=$(cat /sys/kernel/mm/lru_gen/min_ttl_ms)"
echo "disk=$(df -k / | awk 'NR == 2 { print int($4 / 1024) }')"
echo "processes=$(i=0; while [ $i -lt 200 ]; do true & i=$((i + 1)); done; wait; ps -eo stat= | grep -c Z)"
"""


def given(tap):
    import time
    result = guest("--memory", "512MiB", "--cpus", "1", "-e", "GIVEN=a b=c", "--", "sh", "-c", LOOK, "name", "one two", "", "ü'\"$x")
    tap.equal("a guest runs a command", result.code, 0, result)
    found = dict(line.split("=", 1) for line in result.text.splitlines() if "=" in line)
    tap.check("on a kernel of its own", found.get("kernel", os.uname().release) != os.uname().release, result)
    tap.equal("as root, in its home", (found.get("user"), found.get("folder")), ("root", "/root"))
    tap.equal("with the CPUs asked for", found.get("cpus"), "1")
    tap.check("and the memory", 400 < int(found.get("memory", 0)) <= 512, found)
    tap.equal("arguments arrive as they are", found.get("arguments"), "3:one two::ü'\"$x")
    tap.equal("so do variables", found.get("variable"), "a b=c")
    tap.check("the clock is right", abs(int(found.get("clock", 0)) - time.time()) < 30, found)
    tap.check("memory in use is protected from thrashing", int(found.get("protected") or 0) > 0, found)
    tap.check("there is room to write", int(found.get("disk", 0)) > 5000, found)
    tap.equal("200 processes at a time leave no zombie", found.get("processes"), "0")
    result = guest("--cpus", "2", "-u", "app", "-w", "/usr", "--", "sh", "-c", "id -un; pwd; nproc; echo $HOME; touch ~/mine && ls ~")
    tap.equal("user, folder and two CPUs", result.text.split(), ["app", "/usr", "2", "/home/app", "mine"], result)


def ends(tap):
    tap.equal("the exit code passes through", guest("--", "sh", "-c", "exit 42").code, 42)
    result = guest("--", "sh", "-c", "kill -KILL $$")
    tap.equal("a signal becomes 128+n", result.code, 137, result)
    result = guest("--json", "--", "/no/such/program")
    tap.equal("a missing command is 127", result.code, 127)
    tap.equal("as JSON", (harness.last_json(result.errors) or {}).get("error", {}).get("code"), "command_not_found", result)
    tap.equal("what cannot be executed is 126", guest("--", "/etc/passwd").code, 126)
    result = guest("-u", "nobody-of-that-name", "--", "true")
    tap.check("a missing user is 125", result.code == 125 and "nobody-of-that-name" in result.errors, result)
    result = guest("-w", "/no/such/folder", "--", "true")
    tap.check("a missing folder is 125", result.code == 125 and "/no/such/folder" in result.errors, result)
    result = guest("--memory", "192MiB", "--", "sh", "-c", "tail /dev/zero")
    tap.equal("a command that eats all memory is killed", result.code, 137, result)
    tap.check("and hutch says that memory ran out", "--memory" in result.errors, result)
    result = guest("--timeout", "60s", "--", "true")
    tap.equal("a deadline that is not reached changes nothing", result.code, 0, result)
    begin = guest("--", "true").seconds
    result = guest("--timeout", f"{int(begin) + 3}s", "--", "sleep", "300")
    tap.equal("one that is reached is 124", result.code, 124, result)


def isolation(tap):
    result = guest("--", "sh", "-c", "echo changed >/etc/hostname; rm -r /usr/share; sync")
    tap.equal("a guest may change and remove what it likes", result.code, 0, result)
    result = guest("--", "sh", "-c", "ls -d /usr/share; cat /etc/hostname")
    tap.check("and the next one sees nothing of it", "/usr/share" in result.text and "changed" not in result.text, result)


def image(tap):
    if not (harness.SHARE / "core.erofs").exists():
        tap.check("the image core is built", False, "tools/dev setup")
        return
    result = hutch("run", "--", "python3", "-c", "print(6*7)")
    tap.equal("the default image has python3", result.out, b"42\n", result)


def tests(tap):
    for part in (given, ends, isolation, image):
        print(f"# commands: {part.__name__}", flush=True)
        part(tap)
