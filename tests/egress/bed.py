"""The bed that a row runs in: the world, a sandbox under one of the policies, and the two oracles.

A row says what is tried, what must be seen in there, and what may arrive out here. Whatever else
arrives is a fault, and so is a token that arrives although it must not, or does not although it must.
"""

import base64
import contextlib
import ipaddress
import json
import os
import pathlib
import re
import resource
import select
import signal
import subprocess
import sys
import time

import world as outside
from ledger import new_token, settle

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GATEWAY_PROGRAM = pathlib.Path(os.environ.get("TAP_GATEWAY") or ROOT / "build/tests/net/tap_gateway")
# Reads the probe's text from where its commands come from.
LOADER = "import sys; sys.argv[1:] = []; exec(compile(sys.stdin.read(int(sys.stdin.readline())), 'probe', 'exec'))"
# A sandbox that boots while its emulated machine is busy takes most of it.
LIMIT = 200

POLICIES = {
    "none": [],
    "listed": [
        "allowed.test:443",
        "*.wild.test",
        outside.WEB,
        "plain.test:8099",
        "web.test:80",
        "93.184.216.35:8099",
        # What the floor keeps away though it is listed, but for the operator's own block.
        "10.0.0.5", "169.254.169.254", "192.168.1.5", "100.64.0.5", "127.0.0.1", outside.HOST, "10.1.2.3",
        "[2606:2800:220:9::1]",
    ],
    "all": ["all"],
}
OPENED = ["10.1.0.0/16"]


def b64(data):
    return base64.b64encode(data).decode()


class Process:
    """A program with lines in and lines out."""

    def __init__(self, words, **options):
        self.errors = open(os.environ.get("EGRESS_LOG", os.devnull), "ab")
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        bufsize=0, **options)
        self.pending = b""

    def write(self, data):
        self.process.stdin.write(data)

    def line(self, limit=LIMIT):
        end = time.monotonic() + limit
        while b"\n" not in self.pending:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 1 << 20) if ready else b""
            if not data:
                raise RuntimeError(f"{'nothing more from' if ready else 'no answer in time from'} {self.process.args[0]}")
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode()

    def stop(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


class Guest:
    """Whoever plays the sandbox: a probe somewhere."""

    has_network = True  # whether its kernel has one at all
    settling = 0.02  # seconds without a frame, after which none of before is on its way

    def start_probe(self, words, **options):
        self.probe = Process(words, **options)
        text = (HERE / "probe.py").read_bytes()
        self.probe.write(b"%d\n" % len(text.decode()) + text)

    def do(self, ops, limit=LIMIT):
        self.probe.write(json.dumps({"ops": ops}).encode() + b"\n")
        return json.loads(self.probe.line(limit))["results"]


class LibraryGuest(Guest):
    """A namespace with a tap, behind which net/, the policy and the broker are as in the product."""

    patience = 5  # seconds until what must answer has
    silence = 0.25  # after which nothing more is expected

    def __init__(self, bed, patterns):
        self.bed = bed
        self.words = ["--broker", os.environ.get("HUTCH_BROKER") or ROOT / "build/broker/hutch-broker", "--dns", outside.RESOLVER]
        for block in OPENED:
            self.words += ["--open-block", block]
        allowed = [word for pattern in patterns for word in ("--allow", pattern)]
        self.gateway = Process(bed.world.host.words(GATEWAY_PROGRAM, *self.words, *allowed, "--tap-namespace",
                                                    f"/run/netns/{bed.inside.name}"))
        ready = self.gateway.line(30).split()
        if ready[:2] != ["ready", "broker"]:
            raise RuntimeError(f"tap_gateway: {' '.join(ready)}")
        self.broker = int(ready[2])
        self.start_probe(bed.inside.words("/usr/bin/python3", "-c", LOADER))

    def command(self, text):
        self.gateway.write(text.encode() + b"\n")
        return self.gateway.line(30)

    def counters(self):
        return json.loads(self.command("counters"))

    def set_policy(self, patterns):
        answer = self.command(" ".join(["policy", *patterns]))
        if answer != "policy set":
            raise RuntimeError(answer)

    def broker_descriptors(self):
        return len(os.listdir(f"/proc/{self.broker}/fd"))

    def limit_broker(self, count):
        resource.prlimit(self.broker, resource.RLIMIT_NOFILE, (count, resource.prlimit(self.broker, resource.RLIMIT_NOFILE)[1]))

    def kill_broker(self):
        os.kill(self.broker, signal.SIGKILL)

    def accepts(self, pattern):
        """What is wrong, if this pattern is taken, or refused without a reason."""
        done = subprocess.run(self.bed.world.host.words(GATEWAY_PROGRAM, *self.words, "--allow", pattern, "true"), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=30)
        return wrong_refusal(pattern, done)

    def stop(self):
        self.probe.stop()
        self.gateway.stop()


def wrong_refusal(pattern, done):
    if done.returncode == 0:
        return f"the pattern {pattern!r} was taken"
    # The message quotes the pattern, what is not printable as question marks.
    shown = "".join(c if " " <= c <= "~" else "?" for c in pattern.encode().decode("latin-1"))
    return None if f'"{shown}"' in done.stderr else f"the pattern {pattern!r} was refused with {done.stderr!r}"


class Bed:
    def __init__(self, level, world, policy, guest, inside=None):
        self.level, self.world, self.policy, self.inside = level, world, policy, inside
        self.start_guest = guest
        self.guest = None
        self.faults = []
        self.tokens = []
        self.is_broken = False

    def __getattr__(self, name):
        if name in ("patience", "silence"):
            return getattr(self.guest, name)
        raise AttributeError(name)

    def by(self, none, listed, everything):
        """What holds under this bed's policy."""
        return {"none": none, "listed": listed, "all": everything}[self.policy]

    def fault(self, text):
        if len(self.faults) < 20:
            self.faults.append(text)

    # --- A row ---------------------------------------------------------------------------------

    def run(self, function):
        """The faults of a row."""
        self.faults, self.tokens, self.is_broken = [], [], False
        self.world.scripts.clear()
        self.world.dns_is_dead = False
        self.world.ledger.take()
        try:
            self.begin()
            function(self)
            if not self.is_broken:
                self.control()
        except Exception as error:
            self.fault(f"{type(error).__name__}: {error}")
            if os.environ.get("EGRESS_DEBUG"):
                raise
            # Whatever is wrong with it, the next row has a sandbox of its own.
            self.end()
            return self.faults
        self.look([], "at the end of the row")
        for token, must_arrive in self.tokens:
            if self.world.ledger.has(token) != must_arrive:
                self.fault(f"the token {token} {'did not arrive' if must_arrive else 'arrived'}")
        if lost := self.world.ledger.lost():
            self.fault(f"the ledger has lost {lost} frames")
        return self.faults

    def begin(self):
        if self.guest is None:
            self.guest = self.start_guest(self, POLICIES[self.policy])

    def end(self):
        if self.guest:
            self.guest.stop()
            self.guest = None

    def token(self, arrives=False):
        token = new_token()
        self.tokens.append((token, arrives))
        return token

    def look(self, tries, what="", arrives=(), may=()):
        """`tries` are (op, what must be seen) or (op, what must be seen, a word about it), at the same time. `arrives`
        are the events that must come of it; `may`, that may, or begin so where they end in *."""
        tries = [(*one, "")[:3] for one in tries]
        results = self.guest.do([{"wait": self.patience, **op} for op, _, _ in tries]) if tries else []
        settle(self.world.ledger, self.guest.settling if self.guest else 0.02)
        for (op, sees, about), result in zip(tries, results):
            if not self.guest.has_network:
                sees = saw_no_network
            good = sees(result) if callable(sees) else result["saw"] in ({sees} if isinstance(sees, str) else sees)
            if not good:
                op = {key: value if len(str(value)) < 60 else "..." for key, value in op.items()}
                wanted = "otherwise" if callable(sees) else sees
                shown = {key: value for key, value in result.items() if len(str(value)) < 300}
                self.fault(f"{what} {about} {json.dumps(op)}: saw {json.dumps(shown)}, wanted {wanted}")
        events = set(self.world.ledger.take())
        arrives = set(arrives) if self.guest.has_network else set()
        for event in sorted(arrives - events):
            self.fault(f"{what}: did not arrive: {event}")
        prefixes = tuple(event[:-1] for event in may if event.endswith("*"))
        for event in sorted(events - arrives - set(may)):
            if not (prefixes and event.startswith(prefixes)):
                self.fault(f"{what}: arrived: {event}")
        return results

    def wait_until(self, condition):
        end = time.monotonic() + 6 * self.patience
        while not condition() and time.monotonic() < end:
            time.sleep(0.2)

    # --- What rows have in common --------------------------------------------------------------

    def https(self, name, token, **more):
        return {"op": "tls", "name": name, "port": 443, "sni": name, "root": self.world.root,
                "send": b64(f"GET /{token} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()), **more}

    @staticmethod
    def received(result):
        return base64.b64decode(result.get("received", ""))

    @staticmethod
    def https_arrives(name, address):
        return {f"dns {name}", f"tcp {address}:443", f"data {address}:443", f"tls {name}", f"https {name}"}

    def control(self):
        """The positive control of every row, after its attack: what is allowed works, and where nothing is, the network
        still answers."""
        name, address = "allowed.test", outside.ADDRESSES["allowed.test"]
        if self.policy == "none":
            self.look([({"op": "dns", "name": name}, "NXDOMAIN")], "control")
            return
        # After a row that asks for very many names, new ones come some a second.
        self.wait_until(lambda: self.guest.do([{"op": "dns", "name": name, "wait": self.patience}])[0]["saw"] != "SERVFAIL")
        token = self.token(arrives=True)
        self.look([(self.https(name, token), "answered")], "control", self.https_arrives(name, address))

    def program(self, path, cases):
        """Cases of a test program of the build, under this policy."""
        done = subprocess.run([ROOT / "build" / path, f"--test-case={cases}"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=600, env={**os.environ, "EGRESS_POLICY": self.policy})
        found = re.search(r"test cases: +(\d+) \| +(\d+) passed", done.stdout)
        if done.returncode or not found or found.group(1) != found.group(2) or found.group(1) == "0":
            self.fault(f"{path} {cases}: status {done.returncode}\n{done.stdout[-2000:]}")

    def counters(self):
        """Of the network, where they can be read."""
        return self.guest.counters() if isinstance(self.guest, LibraryGuest) else None


def saw_no_network(result):
    saw = result["saw"]
    return set(saw) <= {"no network"} if isinstance(saw, dict) else saw == "no network" or (
        set(result.get("errors", {})) == {"no network"} and not result.get("answers"))


def tally(**wanted):
    """That all of many attempts saw this: tally(NXDOMAIN=1000)."""
    return lambda result: result["saw"] == {key.replace("_", " "): value for key, value in wanted.items() if value}


def only(*words):
    """That none of many attempts saw anything else."""
    return lambda result: set(result["saw"]) <= set(words)


def edges(*blocks):
    """First and last address of blocks, and one in between."""
    found = []
    for block in map(ipaddress.ip_network, blocks):
        found += [str(block[0]), str(block[block.num_addresses // 2]), str(block[-1])]
    return found
