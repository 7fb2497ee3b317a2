"""Guests that end by themselves while a command runs: each has a reason, exit code 125 and its console."""

import json

import harness
from harness import guest, hutch


def error_of(result):
    return (harness.last_json(result.errors) or {}).get("error", {})


def tests(tap):
    for name, script in (
        ("power_off", "echo o >/proc/sysrq-trigger; sleep 60"),
        ("reset", "echo b >/proc/sysrq-trigger; sleep 60"),
        ("panic", "echo c >/proc/sysrq-trigger; sleep 60"),
    ):
        result = guest("--json", "--", "sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; " + script)
        error = error_of(result)
        tap.equal(f"a guest that ends by {name} is 125", result.code, 125, result)
        tap.equal("with that reason", error.get("code"), name, result)
        tap.check("in a sentence", len(error.get("message", "")) > 10, result)
        if name == "panic":
            tap.check("with the last lines of its console", "do_syscall_64" in error.get("console", ""), result)
    result = guest("--json", "--cmdline", "hutch.root=/dev/no-such-disk", "--", "true")
    tap.check("a guest without its root is 125", result.code == 125, result)
    tap.check("and says what it missed", "no-such-disk" in json.dumps(error_of(result)), result)
    result = guest("--json", "--boot-timeout", "500ms", "--", "true")
    tap.equal("a guest that does not answer in time is 125", (result.code, error_of(result).get("code")), (125, "agent_timeout"), result)
    result = guest("--json", "--kernel", "/etc/passwd", "--", "true")
    tap.check("a file that is no kernel is 125, and named", result.code == 125 and "kernel" in json.dumps(error_of(result)).lower(), result)
    result = guest("--", "true")
    tap.equal("and the next guest runs", result.code, 0, result)
