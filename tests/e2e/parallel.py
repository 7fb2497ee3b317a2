"""Several guests at a time."""

import concurrent.futures

import harness
from harness import guest

COUNT = 4


def tests(tap):
    def one(number):
        return guest("--memory", "256MiB", "--cpus", "1", "--", "sh", "-c", f"cat; echo {number} >/tmp/own; sleep 1; cat /tmp/own; exit {number}",
                     stdin=f"input {number}\n".encode())

    with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
        results = list(pool.map(one, range(1, COUNT + 1)))
    for number, result in enumerate(results, start=1):
        tap.equal(f"guest {number} of {COUNT} gets its own input, disk and exit code", (result.text, result.code), (f"input {number}\n{number}\n", number), result)
    tap.check("no VMM is left", harness.eventually(lambda: not harness.processes("--control-fd"), 20), harness.processes("--control-fd"))
