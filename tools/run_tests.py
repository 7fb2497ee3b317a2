"""Runs Hutch's tests and adds up the single checks of all of them.

Usage: run_tests.py lint|unit|fuzz|images|e2e|boot|sdk|egress|all, called by tools/dev, which has built everything before.
Ends with `N passed, N failed, N skipped`; the exit status is 1 when something failed.

  lint   formatting, floors, shell scripts
  unit   the unit tests of build/, then all of them again under address and undefined behaviour
         sanitizers, built by clang, and those with threads under the thread sanitizer
  fuzz   each fuzz target for FUZZ_SECONDS (20), two at a time, from the corpus in the tree
  images two builds of the writable layer and of the small image, each from nothing, byte for byte
  e2e    tests/e2e: real guests, in the emulated machine where this host's KVM cannot run them
  boot   bench/virtual_boot.py: what a boot takes in virtual time, beside the numbers in the tree
  sdk    tests/sdk: the unmodified npm client @deno/sandbox on Deno, Node 20 and Node 24 against
         `hutch serve` and real guests
  egress tests/egress: what a sandbox reaches, without a machine and in real guests, under three policies

With `all`, e2e and sdk run side by side, and egress has real guests under one policy alone. What failed is said again at the end.
"""

import concurrent.futures
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
SANITIZED = ROOT / "build-sanitized"
THREADS = ROOT / "build-threads"
MAX_FAILURE_LINES = 200
DOCTEST = re.compile(r"test cases:\s*(\d+) \|\s*(\d+) passed \|\s*(\d+) failed \|\s*(\d+) skipped")
TAP = re.compile(r"^(ok|not ok)\b([^#]*)(#\s*SKIP.*)?", re.IGNORECASE)


class Totals:
    def __init__(self):
        self.lock = threading.Lock()
        self.passed = self.failed = 0
        self.skipped = []
        self.failures = []

    def add(self, name, passed, failed, detail="", failures=()):
        """`failures` are lines about what failed, for the end of the output."""
        mark = "FAILED" if failed else "passed"
        with self.lock:
            self.passed += passed
            self.failed += failed
            if failed:
                self.failures += failures or [name]
            print(f"{mark:6} {name}: {passed} passed, {failed} failed{detail}", flush=True)


def run(command, **options):
    return subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", **options)


def show(text, lines=60):
    for line in text.splitlines()[-lines:]:
        print(f"    {line}", flush=True)


def tracked(*patterns):
    listed = run(["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", *patterns])
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def check(totals, name, command):
    result = run(command, cwd=ROOT)
    totals.add(name, int(result.returncode == 0), int(result.returncode != 0))
    if result.returncode:
        show(result.stdout)


def lint(totals):
    sources = tracked("*.h", "*.cc")
    check(totals, "lint: formatting", ["clang-format-14", "--dry-run", "--Werror", *sources])
    scripts = [path for path in tracked() if path.is_file() and is_shell(path)]
    check(totals, "lint: shell scripts", ["shellcheck", "-x", "-P", ROOT, *scripts])
    tap(totals, "lint: floors", [sys.executable, ROOT / "tests/layering_test.py"])
    tap(totals, "lint: initialisers", [sys.executable, ROOT / "tests/try_test.py"])


def is_shell(path):
    if path.suffix == ".sh":
        return True
    with open(path, "rb") as file:
        first = file.readline(64)
    return first.startswith(b"#!") and (b"bash" in first or b"/sh" in first)


def tap(totals, name, command, limit=None, stream=False):
    """Runs a program that prints TAP lines; no line at all, or a bad status without one, is a failure."""
    start = time.monotonic()
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT)
    passed = failed = 0
    text, failures = [], []
    good = True
    for line in map(str.rstrip, process.stdout):
        text.append(line)
        match = TAP.match(line)
        if match and match.group(3):
            totals.skipped.append(f"{name}: {line}")
        elif match:
            good = match.group(1).lower() == "ok"
            passed += good
            failed += not good
        # What follows a failure belongs to it.
        if not good:
            failures.append(f"{name}: {line}")
        if stream:
            # Another part's lines may come in between.
            print("    " + re.sub(r"^((?:not )?ok \d+ - |# ?)?", lambda found: f"{found.group()}{name}: ", line), flush=True)
    status = process.wait(timeout=limit)
    if passed + failed == 0 or (status != 0 and failed == 0):
        failed += 1
    totals.add(name, passed, failed, f" ({time.monotonic() - start:.0f} s)", failures=failures[:MAX_FAILURE_LINES])
    if failed and not stream:
        show("\n".join(text))


def tap_counts(output):
    """The lines of TAP in `output`, in the shape of doctest's counts: (cases, passed, failed)."""
    lines = [match for match in map(TAP.match, output.splitlines()) if match and not match.group(3)]
    passed = sum(match.group(1).lower() == "ok" for match in lines)
    return [(len(lines), passed, len(lines) - passed)] if lines else []


def meson_tests(totals, folder, name, tests=()):
    log = folder / "meson-logs/testlog.json"
    log.unlink(missing_ok=True)
    result = run(["meson", "test", "-C", folder, "--no-rebuild", "--no-suite", "fuzz",
                  "--timeout-multiplier", "4", *tests])
    if not log.exists():
        totals.add(name, 0, 1)
        show(result.stdout)
        return
    for line in log.read_text().splitlines():
        test = json.loads(line)
        output = test.get("stdout", "") + test.get("stderr", "")
        counts = [tuple(map(int, match)) for match in DOCTEST.findall(output)] or tap_counts(output)
        passed = sum(count[1] for count in counts)
        failed = sum(count[2] for count in counts)
        title = f"{name}: {test['name']}"
        for match in re.finditer(r"^SKIPPED: (.*)$", output, re.MULTILINE):
            totals.skipped.append(f"{title}: {match.group(1)}")
        # A crash, a time-out or a program without a single case is a failure of its own.
        if test["result"] != "OK" and failed == 0 or not counts:
            failed += 1
        totals.add(title, passed, failed, f" ({test.get('duration', 0):.1f} s)")
        if failed:
            show(output)


def build_with(totals, name, folder, options, targets=()):
    """Builds `targets`, or everything, in `folder` with clang, all warnings errors; whether it did."""
    start = time.monotonic()
    print(f"       building with clang and {name}", flush=True)
    if not (folder / "build.ninja").exists():
        # meson looks for ccache by itself only where the compiler is not named.
        cache = "ccache " if shutil.which("ccache") else ""
        built = run(["meson", "setup", folder, ROOT, "-Db_lundef=false", "-Doptimization=1", "-Ddebug=true",
                     "-Dwerror=true", *options], env=dict(os.environ, CC=f"{cache}clang-14", CXX=f"{cache}clang++-14"))
    if (folder / "build.ninja").exists():
        built = run(["ninja", "-C", folder, *targets])
    totals.add(f"build with clang and {name}", int(built.returncode == 0), int(built.returncode != 0),
               f" ({time.monotonic() - start:.0f} s)")
    if built.returncode:
        show(built.stdout)
    return built.returncode == 0


@functools.cache
def build_sanitized(totals):
    # An undefined behaviour that is only printed is not noticed.
    os.environ.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
    return build_with(totals, "sanitizers", SANITIZED, ["-Dfuzz=true", "-Db_sanitize=address,undefined"])


def unit(totals):
    meson_tests(totals, BUILD, "unit")
    if build_sanitized(totals):
        meson_tests(totals, SANITIZED, "unit, sanitized")
    # The rooms whose devices and drivers have threads in one process; the VMM as a whole runs under
    # filters that this sanitizer cannot live with.
    threaded = ["memory", "virtio"]
    if build_with(totals, "thread sanitizer", THREADS, ["-Db_sanitize=thread"],
                  [f"{room}/{room}_test" for room in threaded]):
        meson_tests(totals, THREADS, "unit, threads", threaded)


def fuzz_one(target, seconds):
    name = target.name.removesuffix("_fuzz")
    corpus = ROOT / "tests/fuzz/corpus" / name
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch) / "corpus"
        work.mkdir()
        seeds = sorted(corpus.iterdir()) if corpus.is_dir() else []
        for seed in seeds:
            shutil.copy(seed, work)
        result = run([target, f"-max_total_time={seconds}", "-print_final_stats=1", "-timeout=10",
                      "-rss_limit_mb=2048", f"-artifact_prefix={scratch}/", work])
        executions = re.search(r"number_of_executed_units:\s*(\d+)", result.stdout)
        count = int(executions.group(1)) if executions else 0
        return name, len(seeds), count, result


def fuzz(totals):
    if not build_sanitized(totals):
        return
    seconds = int(os.environ.get("FUZZ_SECONDS", "20"))
    targets = sorted(path for path in (SANITIZED / "tests/fuzz").glob("*_fuzz") if path.is_file())
    if not targets:
        totals.add("fuzz: targets are built", 0, 1)
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for name, seeds, count, result in pool.map(lambda t: fuzz_one(t, seconds), targets):
            # A target that hardly ran, or has no corpus, tests nothing.
            good = result.returncode == 0 and count > seeds and seeds > 0
            totals.add(f"fuzz: {name}", int(good), int(not good),
                       f" ({count} executions, {seeds} files in the corpus)")
            if not good:
                show(result.stdout)


def images(totals):
    for name in ("layer", "min"):
        check(totals, f"images: two builds of {name} have the same bytes",
              [ROOT / "images/test_reproducible", name])


def e2e(totals):
    tap(totals, "e2e", [ROOT / "tests/e2e/run"], stream=True)


def boot(totals):
    tap(totals, "boot", [sys.executable, ROOT / "bench/virtual_boot.py", *sys.argv[2:]], stream=True)


def sdk(totals):
    tap(totals, "sdk", [ROOT / "tests/sdk/run", "--results", BUILD / "sdk-results"], stream=True)


def egress(totals, *words):
    tap(totals, " ".join(["egress", *words]), [ROOT / "tests/egress/run", *words], stream=True)


def main_egress(totals):
    """All of it without a machine, and real guests under one policy: the others take a quarter of an hour."""
    egress(totals, "--level", "library")
    egress(totals, "--level", "guest", "--policy", "listed")


def real_guests(totals):
    """Each has an emulated machine of its own, which uses one processor."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for part in [pool.submit(part, totals) for part in (e2e, sdk)]:
            part.result()


def main():
    which = sys.argv[1] if len(sys.argv) > 1 else "all"
    parts = {"lint": [lint], "unit": [unit], "fuzz": [fuzz], "images": [images],
             "e2e": [e2e], "boot": [boot], "sdk": [sdk], "egress": [egress],
             "all": [lint, unit, fuzz, images, real_guests, boot, main_egress]}
    if which not in parts:
        sys.exit(f"unknown part {which}; the parts are {', '.join(parts)}")
    totals = Totals()
    for part in parts[which]:
        part(totals)
    for name in totals.failures:
        print(f"failed: {name}")
    for reason in totals.skipped:
        print(f"skipped: {reason}")
    print(f"{totals.passed} passed, {totals.failed} failed, {len(totals.skipped)} skipped")
    sys.exit(1 if totals.failed else 0)


if __name__ == "__main__":
    main()
