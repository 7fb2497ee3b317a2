"""Standard streams of commands in real guests."""

import hashlib
import os
import subprocess

import harness
from harness import finish, guest, read_until, run, start

MIB = 1 << 20


def tests(tap):
    data = os.urandom(32 * MIB)
    result = guest("--", "sh", "-c", "tee /tmp/copy; sha256sum </tmp/copy >&2", stdin=data)
    tap.check("32 MiB pass through standard input and output", result.code == 0 and result.out == data,
              f"{len(result.out)} bytes came back\n{result.errors}")
    tap.equal("and are intact in between", result.errors.split()[:1], [hashlib.sha256(data).hexdigest()])
    process = start("run", "--image", "min", "--", "sh", "-c", "cat; echo end; echo err >&2; exit 5")
    process.stdin.write(b"first\n")
    process.stdin.flush()
    tap.equal("input arrives while its end is open", read_until(process.stdout, b"first\n"), b"first\n")
    process.stdin.close()
    tap.equal("its end passes through", read_until(process.stdout, b"end\n"), b"end\n")
    errors = process.stderr.read().decode()
    tap.equal("the streams stay apart", (errors.splitlines()[-1:], finish(process)), (["err"], 5))
    quoted = subprocess.list2cmdline([harness.HUTCH, "run", "--image", "min", "--", "yes"])
    result = run("bash", "-c", f"{quoted} | head -n 3; exit ${{PIPESTATUS[0]}}", env=harness.environment())
    tap.equal("a reader that goes away ends the writer by SIGPIPE", (result.out, result.code), (b"y\n" * 3, 141), result)
    result = guest("--no-stdin", "--", "cat", stdin=b"not read")
    tap.equal("without standard input the command's is empty", (result.code, result.out), (0, b""), result)
    result = guest("--", "sh", "-c", "(sleep 300; echo late) & echo early", stdin=None)
    tap.equal("a child in the background does not hold the command up", (result.code, result.out), (0, b"early\n"), result)
