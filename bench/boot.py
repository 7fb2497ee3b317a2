"""Boots machines one after another and prints when each stage was reached, and the counts.

Usage: boot.py [--runs N] [--json FILE] [HUTCH-RUN-OPTION...], called by tools/dev bench. Every run is a
fresh process and the clock stops when the answer to a command has arrived. Counts predict hardware
better than times do; where the guests run in the emulated machine, the times say nothing about it.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MARKS = ["first_run", "kernel", "init", "agent", "reply", "gone"]


def one_run(hutch, options):
    result = subprocess.run(
        [hutch, "run", "--timings", "--json", "--no-stdin", *options, "--", "true"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = result.stderr.splitlines()
    if result.returncode != 0 or not lines:
        sys.exit(f"hutch run failed with status {result.returncode}:\n{result.stderr}")
    return json.loads(lines[-1])


def percentile(values, fraction):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", metavar="FILE", help="write all runs to FILE")
    arguments, options = parser.parse_known_args()
    hutch = ROOT / "build/cli/hutch"
    one_run(hutch, options)  # starts the emulated machine where one is needed, and fills caches
    runs = []
    for number in range(arguments.runs):
        runs.append(one_run(hutch, options))
        print(f"\rrun {number + 1} of {arguments.runs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)

    print(f"{arguments.runs} runs, path {runs[0]['path']}, {os.uname().sysname} {os.uname().release}")
    print(f"{'mark':12} {'p50 us':>12} {'p90 us':>12}")
    for mark in MARKS:
        values = [run["marks_us"][mark] for run in runs if run["marks_us"].get(mark) is not None]
        if values:
            print(f"{mark:12} {statistics.median(values):12.0f} {percentile(values, 0.9):12.0f}")
    print(f"{'count':40} {'median':>12} {'lowest':>12} {'highest':>12}")
    rows = {"vmm_kib": [run["vmm_kib"] for run in runs]}
    for run in runs:
        for name, value in run["counts"].items():
            if isinstance(value, dict):
                value = value.get("total")
            if isinstance(value, (int, float)):
                rows.setdefault(name, []).append(value)
    for name, values in rows.items():
        print(f"{name:40} {statistics.median(values):12.0f} {min(values):12.0f} {max(values):12.0f}")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
