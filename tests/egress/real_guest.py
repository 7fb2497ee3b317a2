"""The guest level: the same probe in a real guest under `hutch run`, on this host's KVM or in an
emulated machine of the test's own, which lives in the host's namespace and leaves by its cable."""

import contextlib
import os
import subprocess
import tempfile

import bed as beds
import harness
import world as outside


class RealGuest(beds.Guest):
    patience = 30
    silence = 1.0
    settling = 0.3
    is_on_kvm = True

    def __init__(self, bed, patterns):
        self.bed = bed
        # Without a rule there is no network card at all.
        self.has_network = bool(patterns)
        words = [harness.HUTCH, "run", *self.network(patterns), "--", "sudo", "python3", "-c", beds.LOADER]
        self.start_probe(bed.world.host.words(*words), env=harness.environment())

    @staticmethod
    def network(patterns):
        words = [word for pattern in patterns for word in ("--allow-net", pattern)]
        if patterns:
            words += ["--dns", outside.RESOLVER, *[word for block in beds.OPENED for word in ("--open-block", block)]]
        return words

    # The one broker where they run: the tests' machine, or a host on which no other guest runs.
    EACH_BROKER = "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = hutch-broker ] && %s; done"

    def broker_descriptors(self):
        found = self.inside("sh", "-c", self.EACH_BROKER % "ls $p/fd | wc -l")
        return max(map(int, found.stdout.split()))

    def limit_broker(self, count):
        self.inside("sh", "-c", self.EACH_BROKER % f"prlimit --nofile={count}: --pid ${{p#/proc/}}")

    def kill_broker(self):
        self.inside("sh", "-c", self.EACH_BROKER % "kill -9 ${p#/proc/}")

    def inside(self, *words):
        """Runs a command where the broker runs."""
        if not self.is_on_kvm:
            words = (harness.HUTCH, "machine", "exec", "--", *words)
        return subprocess.run(self.bed.world.host.words(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env=harness.environment(), timeout=60)

    def accepts(self, pattern):
        done = subprocess.run(self.bed.world.host.words(harness.HUTCH, "run", "--allow-net", pattern, "--", "true"), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, env=harness.environment(), timeout=beds.LIMIT)
        return beds.wrong_refusal(pattern, done)

    def stop(self):
        self.probe.stop()


@contextlib.contextmanager
def place():
    """The world, and where this host's KVM cannot run a guest, a machine in it that can."""
    world = outside.World()
    before = os.environ.get("HUTCH_RUNTIME")
    try:
        with tempfile.TemporaryDirectory(prefix="hutch-egress-run-", dir="/tmp") as runtime:
            os.environ["HUTCH_RUNTIME"] = runtime
            RealGuest.is_on_kvm = harness.runs_on_kvm()

            def machine(*words):
                return subprocess.run(world.host.words(harness.HUTCH, "machine", *words), stdin=subprocess.DEVNULL, capture_output=True,
                                      text=True, env=harness.environment(), timeout=beds.LIMIT)
            try:
                if not RealGuest.is_on_kvm:
                    started = machine("start")
                    print(f"# {started.stderr.strip()}", flush=True)
                    # What hutch and its machine say to each other.
                    words = started.stdout.replace(",", " ").split()
                    world.ledger.ignored_ports.add(int(words[words.index("port") + 1]))
                yield world
            finally:
                if not RealGuest.is_on_kvm:
                    machine("rm")
    finally:
        if before is None:
            os.environ.pop("HUTCH_RUNTIME", None)
        else:
            os.environ["HUTCH_RUNTIME"] = before
        world.close()


def take(policies, run_rows):
    with place() as world:
        for policy in policies:
            run_rows(beds.Bed("guest", world, policy, RealGuest))
