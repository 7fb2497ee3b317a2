"""The network of a guest: what people run inside reaches the hosts it was given, and nothing else.

The servers are the tests' own (internet.py); tests/egress has the attacks.
"""

import json
import pathlib
import re
import tempfile

import harness
from internet import Internet

# Prints `== NAME STATUS` behind the output of each client.
CLIENTS = r"""
cat >>/etc/ssl/certs/ca-certificates.crt
did() { status=$?; echo; echo "== $1 $status"; }
cd /tmp
curl -sS https://plain.test:$HTTPS/echo/1000000 | wc -c; did curl
head -c 2000000 /dev/zero | curl -sS -T - https://plain.test:$HTTPS/size; did upload
curl -sS -L -m 20 http://plain.test:$HTTP/elsewhere 2>&1; did redirect
git clone -q https://git.test:$HTTPS/project.git && cat project/README; did git
pip install -q --break-system-packages --no-cache-dir --disable-pip-version-check --index-url https://pypi.test:$HTTPS/simple/ hutchtest 2>&1
python3 -c 'import hutchtest; print(hutchtest.word)'; did pip
mkdir node && cd node && npm install --silent --no-audit --no-fund --registry https://npm.test:$HTTPS/ --cafile /etc/ssl/certs/ca-certificates.crt hutch-test 2>&1
node -e 'console.log(require("hutch-test"))'; did npm
cd /tmp
deno run --quiet --no-lock https://deno.test:$HTTPS/main.ts 2>&1; did deno
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
echo "deb [trusted=yes] http://apt.test:$HTTP/ ./" >/etc/apt/sources.list
{ apt-get -qq update && apt-get -qq -y install hutch-test; } >/tmp/apt.log 2>&1 || cat /tmp/apt.log
cat /opt/hutch-test; did apt
"""
WANTED = {
    "curl": "1000000",
    "upload": "2000000",
    "git": "from git",
    "pip": "from pip",
    "npm": "from npm",
    "deno": "from deno",
    "apt": "from apt",
}
GIVEN = ["plain.test", "git.test", "pypi.test", "npm.test", "deno.test", "apt.test"]


def parts(text):
    """What each client printed and its status, by name."""
    found, start = {}, 0
    for match in re.finditer(r"^== (\w+) (\d+)$", text, re.MULTILINE):
        found[match.group(1)] = (text[start:match.start()].strip(), int(match.group(2)))
        start = match.end()
    return found


def clients(tap, internet):
    internet.publish_git({"README": "from git"})
    internet.publish_python("hutchtest", "1.0", "word = 'from pip'")
    internet.publish_node("hutch-test", "1.0.0", "module.exports = 'from npm'")
    internet.publish("deno.test", "/main.ts", 'import { word } from "./word.ts";\nconsole.log(word);\n', "application/typescript")
    internet.publish("deno.test", "/word.ts", 'export const word: string = "from deno";\n', "application/typescript")
    internet.publish_debian("hutch-test", "1.0", {"opt/hutch-test": "from apt"})
    result = harness.hutch(
        "run", *internet.words(*GIVEN), "-e", f"HTTP={internet.http_port}", "-e", f"HTTPS={internet.https_port}", "--",
        "sh", "-c", CLIENTS, stdin=internet.authority.encode(), limit=2 * harness.LIMIT)
    found = parts(result.text)
    for name, wanted in WANTED.items():
        output, status = found.get(name, ("", None))
        tap.equal(f"{name} reaches its server", (output.splitlines()[-1:], status), ([wanted], 0), result)
    output, status = found.get("redirect", ("", None))
    tap.check("a redirect to another host ends there", status != 0 and "resolve host" in output, result)
    tap.check("which no one was asked for", not any(host == "other.test" for _, host, _, _ in internet.requests))


def recorded(tap, internet, folder):
    """The log tells what was decided, and is a chain."""
    log = pathlib.Path(folder) / "net.jsonl"
    script = (f"curl -sS -o /dev/null http://plain.test:{internet.http_port}/echo/100000;"
              f"curl -sS -m 5 http://other.test/; curl -sS -m 5 http://1.1.1.1/;"
              f"curl -sS -m 10 -H 'Host: other.test' http://plain.test:{internet.http_port}/echo/5")
    result = harness.hutch("run", *internet.words("plain.test"), "--net-log", log, "--", "sh", "-c", script)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    events = [(line["event"], line.get("name") or line.get("address")) for line in lines]
    tap.equal("--net-log has what was decided", events,
              [("policy", None), ("open", "plain.test"), ("close", "plain.test"), ("deny", "other.test"),
               ("deny", "1.1.1.1"), ("refuse", "plain.test")], result)
    closed = next((line for line in lines if line["event"] == "close"), {})
    tap.check("and how much it was", closed.get("received", 0) > 100000 and 0 < closed.get("sent", 0) < 2000, closed)
    verified = harness.hutch("net", "verify", log)
    tap.check("hutch net verify finds it unbroken", verified.code == 0 and f"{len(lines)} lines" in verified.text, verified)
    log.write_text(log.read_text().replace("1.1.1.1", "1.1.1.2"))
    verified = harness.hutch("net", "verify", log)
    tap.check("and sees what was changed", verified.code == 125 and "line 5" in verified.errors, verified)


def version6(tap, internet):
    """--ipv6: the guest has an address, its gateway answers, names have one too; without it nothing."""
    script = (f"ping -c 1 -W 5 fd48:7574:6368::2 | grep -c 'bytes from'; getent ahostsv6 plain.test | grep -c fd48:7574:6368:1::;"
              f"curl -6 -sS -m 30 http://plain.test:{internet.http_port}/echo/100000 | wc -c;"
              f"curl -g -sS -m 5 'http://[2001:db8::1]/'; echo $?")
    result = harness.hutch("run", *internet.words("plain.test"), "--ipv6", "--", "sh", "-c", script)
    found = result.text.split()
    tap.check("--ipv6: the gateway answers, and a name is reached over version 6",
              len(found) == 4 and found[0] == "1" and int(found[1]) > 0 and found[2] == "100000", result)
    tap.check("an address of it that is not listed is refused", found[-1:] == ["7"], result)
    result = harness.hutch("run", *internet.words("plain.test"), "--", "sh", "-c",
                           f"ip -6 addr show dev eth0 scope global; curl -6 -sS -m 5 http://plain.test:{internet.http_port}/; echo $?")
    tap.check("without it there is none", result.text.split() == ["6"], result)


def own_memory(*words):
    """KiB of a VMM's own memory at the end of an idle guest, without the guest's."""
    result = harness.guest(*words, "--timings", "--json", "--", "sleep", "1")
    return json.loads(result.errors.splitlines()[-1])["vmm_kib"], result


def jailed(tap, internet):
    """The broker has no capability, no file, and a filter; and a network costs little memory."""
    process = harness.start("run", *internet.words("plain.test"), "--", "sh", "-c", "echo ready; cat")
    output = harness.Output(process.stdout)
    if not tap.check("a guest with a network runs", output.wait_for(b"ready\n")):
        process.kill()
        return
    # Of this host, where others may run, the last one.
    status = harness.inside("sh", "-c", "for id in $(pidof hutch-broker); do cat /proc/$id/status; ls -A /proc/$id/root/; echo end; done")
    found = status.text.split("end\n")[0].splitlines()
    for line in ("CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        tap.check(f"the broker has {line.split()[0]} {line.split()[1]}", line in found, status)
    tap.check("and an empty root", found and found[-1].startswith("nonvoluntary_ctxt_switches"), status)
    process.stdin.close()
    harness.finish(process)
    broker = next((int(line.split()[1]) for line in found if line.startswith("VmRSS:")), None)
    plain, first = own_memory()
    networked, second = own_memory(*internet.words("plain.test"))
    total = networked - plain + broker if broker else None
    print(f"# KiB: hutch-vmm {plain} without a network, {networked} with one; hutch-broker {broker}", flush=True)
    tap.check("network and broker of an idle sandbox have at most 8 MiB", total is not None and total <= 8192, (first, second))


def without(tap):
    """No network is the default."""
    result = harness.hutch("run", "--", "sh", "-c", "ip -o link show; curl -sS -m 5 http://1.1.1.1/")
    tap.check("without --allow-net there is no network device", result.code != 0 and "eth0" not in result.text, result)
    result = harness.hutch("run", "--dns", "1.1.1.1", "--", "true")
    tap.check("--dns without --allow-net is refused", result.code == 2 and "--allow-net" in result.errors, result)
    result = harness.hutch("run", "--allow-net", "*", "--", "true")
    tap.check("a pattern that is none is refused with its reason", result.code == 125 and '"*"' in result.errors, result)


def tests(tap):
    without(tap)
    with tempfile.TemporaryDirectory(prefix="hutch-internet-", dir="/tmp") as folder:
        with Internet(folder) as internet:
            clients(tap, internet)
            recorded(tap, internet, folder)
            version6(tap, internet)
            jailed(tap, internet)
