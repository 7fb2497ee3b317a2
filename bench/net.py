"""Measures the network behind a guest's card beside pasta, natively: no machine runs.

Usage: net.py [--rounds N] [--seconds S] [--json FILE] [ROW...], called by tools/dev bench net. As root.
Each gateway stands between a network namespace with a tap interface, where the clients run, and the
host's, with a cable to the servers; ours with its real broker, pasta as it sets itself up.
docs/benchmarks.md says what the rows are. Exit status 1: a row of the gate is not met.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "build/tests/net/tap_gateway"
BROKER = ROOT / "build/broker/hutch-broker"
PEER = ROOT / "build/bench/net-peer"
PASTA = "pasta"
# Of the servers, where only these namespaces can see it. A public one: the broker makes sure of that
# for each connection, and the rows shall have it in them.
ADDRESS = "93.184.216.34"
IPERF_PORT = 5201
PEER_PORT = 5301  # and the next
CONNECTIONS_AT_A_TIME = 16
RESAMPLES = 2000
MIB = 1 << 20
GIB = 1 << 30
# The same in all namespaces, whatever the host has. What suits pasta best of what was tried: with BBR,
# which paces, or with smaller receive buffers its uploads stall.
SETTINGS = {"net.ipv4.tcp_congestion_control": "reno", "net.ipv4.tcp_rmem": "4096 131072 33554432",
            "net.ipv4.tcp_wmem": "4096 16384 4194304"}
# Options of iperf3 for each throughput row.
THROUGHPUT = {
    "tcp_1_up": ["-P1"],
    "tcp_1_down": ["-P1", "-R"],
    "tcp_8_up": ["-P8"],
    "tcp_8_down": ["-P8", "-R"],
}
ROWS = [*THROUGHPUT, "connect_rate", "latency"]
# Ours must be at least this many times the peer's.
GATE = {name: 1.0 for name in [*THROUGHPUT, "connect_rate"]}
AIM = 2.0


class Failure(Exception):
    pass


def show(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def run(*command):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def inside(namespace, *command):
    return ["ip", "netns", "exec", namespace, *map(str, command)]


def wait_for(what, condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.05)
    raise Failure(f"{what} does not start")


def can(*command):
    return subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def namespace(name):
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        for setting, value in SETTINGS.items():
            run(*inside(name, "sysctl", "-qw", f"{setting}={value}"))
        yield name
    finally:
        # Interfaces that programs made in it go with them.
        run("ip", "netns", "del", name)


@contextlib.contextmanager
def process(command, **options):
    """A program that is ended with the block."""
    # A Ctrl-C is for this program, which ends the others in order.
    child = subprocess.Popen(list(map(str, command)), start_new_session=True, **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def cpu_seconds(processes):
    """All threads, user and system."""
    total = 0
    for number in processes:
        for task in pathlib.Path(f"/proc/{number}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Side:
    """One gateway, and the namespace behind it."""

    def __init__(self, name, client, processes):
        self.name = name
        self.client = client
        self.processes = processes


@contextlib.contextmanager
def ours(host, client):
    command = [GATEWAY, "--broker", BROKER, "--tap-namespace", f"/run/netns/{client}"]
    for port in (IPERF_PORT, PEER_PORT, PEER_PORT + 1):
        command += ["--allow", f"{ADDRESS}:{port}"]
    with process(inside(host, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                 text=True) as gateway:
        ready = gateway.stdout.readline().split()
        if ready[:2] != ["ready", "broker"]:
            raise Failure("the gateway does not start")
        # `ip netns exec` has become the gateway.
        yield Side("hutch", client, [gateway.pid, int(ready[2])])


@contextlib.contextmanager
def pasta(host, client):
    # It takes its host's addresses from the interface with the default route. The clients have the
    # addresses that ours have. All else is as it comes, its large MTU too.
    command = [PASTA, "--foreground", "--config-net", "--netns", f"/run/netns/{client}",
               "--netns-only", "--runas", "0", "--ipv4-only", "-I", "eth0", "-a", "10.0.2.15", "-n",
               "24", "-g", "10.0.2.2", "-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    with process(inside(host, *command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                 stderr=subprocess.DEVNULL) as gateway:
        wait_for("pasta", lambda: can("ip", "-n", client, "route", "get", ADDRESS))
        yield Side("pasta", client, [gateway.pid])


@contextlib.contextmanager
def world():
    """The servers, and beyond a cable the host with both gateways."""
    number = os.getpid()
    with contextlib.ExitStack() as stack:
        server, host, left, right = (stack.enter_context(namespace(f"hutch-bench-{number}-{name}"))
                                     for name in ("server", "host", "ours", "peer"))
        run("ip", "-n", host, "link", "add", "uplink", "type", "veth",
            "peer", "name", "downlink", "netns", server)
        run("ip", "-n", server, "addr", "add", f"{ADDRESS}/24", "dev", "downlink")
        run("ip", "-n", server, "link", "set", "downlink", "up")
        run("ip", "-n", host, "addr", "add", "93.184.216.2/24", "dev", "uplink")
        run("ip", "-n", host, "link", "set", "uplink", "up")
        run("ip", "-n", host, "route", "add", "default", "via", ADDRESS)
        stack.enter_context(process(inside(server, "iperf3", "-s", "-B", ADDRESS, "-p", IPERF_PORT),
                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL))
        answerer = stack.enter_context(
            process(inside(server, PEER, "serve", ADDRESS, PEER_PORT), stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, text=True))
        if answerer.stdout.readline() != "ready\n":
            raise Failure("net-peer does not start")
        wait_for("iperf3", lambda: can(*inside(host, "iperf3", "-c", ADDRESS, "-p", IPERF_PORT,
                                               "-n", "1")))
        yield (stack.enter_context(ours(host, left)), stack.enter_context(pasta(host, right)))


# --- Measuring ------------------------------------------------------------------------------------

def client(side, command, seconds):
    """Runs a client; its JSON."""
    try:
        result = subprocess.run(inside(side.client, *command), stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=seconds + 30)
    except subprocess.TimeoutExpired:
        raise Failure(f"{side.name}: {command[0]} does not end") from None
    if result.returncode != 0:
        raise Failure(f"{side.name}: {' '.join(map(str, command))}: {result.stderr or result.stdout}")
    return json.loads(result.stdout)


def measure(side, row, seconds):
    """One turn: {name of a row: value}."""
    if row == "latency":
        answer = client(side, [PEER, "latency", ADDRESS, PEER_PORT, seconds], seconds)
        return {row: answer["p50_us"]}
    before = cpu_seconds(side.processes)
    if row == "connect_rate":
        answer = client(side, [PEER, "connect", ADDRESS, PEER_PORT, seconds, CONNECTIONS_AT_A_TIME],
                        seconds)
        if answer["failed"]:
            raise Failure(f"{side.name}: {answer['failed']} connections failed")
        used = cpu_seconds(side.processes) - before
        return {row: answer["count"] / answer["seconds"],
                f"cpu_{row}": used * 1e6 / answer["count"]}
    command = ["iperf3", "-c", ADDRESS, "-p", IPERF_PORT, "-t", seconds, "-J", *THROUGHPUT[row]]
    report = client(side, command, seconds)
    if "sum_received" not in report["end"]:
        raise Failure(f"{side.name}: {row}: iperf3 says: {report.get('error', 'nothing')}")
    received = report["end"]["sum_received"]
    used = cpu_seconds(side.processes) - before
    return {row: received["bits_per_second"] / 8 / MIB,
            f"cpu_{row}": used / (received["bytes"] / GIB)}


def unit_of(name):
    if name == "cpu_connect_rate":
        return "us/connection"
    if name.startswith("cpu_"):
        return "s/GiB"
    return {"connect_rate": "1/s", "latency": "us"}.get(name, "MiB/s")


def is_better_small(name):
    return name.startswith("cpu_") or name == "latency"


def interval(ratios):
    """The median, with the percentile bootstrap's 95 % interval; the same ratios, the same answer."""
    generator = random.Random(1)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios)))
                     for _ in range(RESAMPLES))
    return {"median": statistics.median(ratios), "low": medians[int(0.025 * RESAMPLES)],
            "high": medians[int(0.975 * RESAMPLES) - 1]}


def measure_all(sides, rows, rounds, seconds):
    """{name of a row: ([ours of each round], [the peer's])}."""
    left, right = sides
    values = {}
    for row in rows:
        for side in sides:
            show(f"{row}: warming {side.name} up")
            measure(side, row, min(seconds, 1))
        for number in range(rounds):
            show(f"{row}: round {number + 1} of {rounds}")
            turns = [(side, measure(side, row, seconds)) for side in (left, right, right, left)]
            for name in turns[0][1]:
                columns = values.setdefault(name, ([], []))
                for column, side in zip(columns, sides):
                    column.append(statistics.mean(value[name] for of, value in turns if of is side))
    show("")
    return values


def entry(name, columns):
    mine, peers = columns
    return {"name": name, "unit": unit_of(name), "clock": "monotonic", "n": len(mine),
            "ours": statistics.median(mine), "peer": statistics.median(peers), "peer_name": "pasta",
            "ratio": interval([a / b for a, b in zip(mine, peers)])}


def print_table(entries, arguments):
    packages = run("dpkg-query", "-W", "-f", "${Package} ${Version}, ", "passt", "iperf3").strip(", ")
    name = os.uname()
    print(f"{name.sysname} {name.release}, {os.cpu_count()} CPUs; {packages}; "
          f"{arguments.rounds} rounds of ABBA, {arguments.seconds} s a turn")
    print(f"{'':20}{'unit':>15}{'hutch':>10}{'pasta':>10}   hutch / pasta (95 % interval)")
    for row in entries:
        ratio = row["ratio"]
        better = "small is good" if is_better_small(row["name"]) else ""
        print(f"{row['name']:20}{row['unit']:>15}{row['ours']:10.4g}{row['peer']:10.4g}   "
              f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})  {better}".rstrip())


def check(entries):
    """Names the rows that are not met; whether all are."""
    good = True
    for row in entries:
        gate = GATE.get(row["name"])
        if gate is None:
            continue
        if row["ratio"]["low"] < gate:
            good = False
            print(f"gate not met: {row['name']}: the interval begins at {row['ratio']['low']:.2f}, "
                  f"at least {gate:.2f} is wanted")
        elif row["ratio"]["median"] < AIM:
            print(f"below the aim: {row['name']}: {row['ratio']['median']:.2f} of {AIM:.2f}")
    return good


def main():
    parser = argparse.ArgumentParser(prog="tools/dev bench net",
                                     description="Compares the network behind a guest's card with pasta.")
    parser.add_argument("--rounds", type=int, default=5, help="of four turns each, for each row")
    parser.add_argument("--seconds", type=int, default=3, help="of one turn")
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"only these of: {' '.join(ROWS)}")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds < 1:
        parser.error("at least one round and one second")
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"no such row: {' '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    # Leaves nothing behind, however it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with world() as sides:
            values = measure_all(sides, arguments.rows or ROWS, arguments.rounds, arguments.seconds)
    except Failure as failure:
        show("")
        sys.exit(f"bench net: {failure}")
    except KeyboardInterrupt:
        show("")
        sys.exit(128 + signal.SIGINT)
    entries = [entry(name, columns) for name, columns in values.items()]
    print_table(entries, arguments)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(entries, indent=2) + "\n")
    sys.exit(0 if check(entries) else 1)


if __name__ == "__main__":
    main()
