"""What needs no guest: wrong usage, help, version, completion, manual pages, doctor."""

import json
import os
import pathlib
import subprocess

import harness
from harness import hutch, run

VERBS = ["run", "serve", "env", "token", "policy", "net", "fork", "pause", "resume", "snapshot", "restore", "snapshots", "template", "doctor", "machine", "version", "completion"]


def wrong_usage(tap):
    for words in (["run", "--memory", "lots"], ["nonsense"], ["run", "--no-such-option"], ["machine"]):
        result = hutch(*words)
        tap.equal(f"`hutch {' '.join(words)}` is wrong usage", result.code, 2)
        tap.check("and points to help", "--help" in result.errors, result)
    error = json.loads(hutch("run", "--json", "--cpus", "99").err)["error"]
    tap.equal("with --json as an envelope", (error["code"], bool(error["message"]), bool(error["hint"])), ("usage", True, True))
    result = hutch("run", "--kernel", "/no/such/kernel", "--console", "--json")
    error = json.loads(result.err.splitlines()[-1])["error"]
    tap.equal("a missing kernel is 125 and not found", (result.code, error["code"]), (125, "not_found"), result)
    result = hutch("run", "--image", "no-such-image", "--", "true")
    tap.check("a missing image names where it was looked for", result.code == 125 and str(harness.SHARE) in result.errors, result)


def texts(tap):
    top = hutch("--help")
    tap.equal("help goes to standard output", (top.code, top.err), (0, b""))
    for verb in VERBS:
        tap.check(f"help lists {verb}", f"\n  {verb} " in top.text, top)
        text = hutch(verb, "--help").text
        tap.check(f"{verb} --help has an example to copy", "\n  hutch " in text or "<(hutch" in text, text)
        tap.check("in lines of at most 110 columns", max(map(len, text.splitlines())) <= 110, text)
    version = json.loads(hutch("version", "--json").text)
    tap.equal("version", hutch("version").text, f"hutch {version['version']}\n")
    for page in ("hutch", "hutch-run", "hutch-serve", "hutch-env", "hutch-token", "hutch-policy", "hutch-net", "hutch-fork", "hutch-pause", "hutch-resume", "hutch-snapshot", "hutch-restore", "hutch-snapshots", "hutch-template", "hutch-doctor", "hutch-machine"):
        text = hutch("man", page).text
        tap.check(f"{page}(1) has its sections", all(f".SH {title}" in text for title in ("NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES")), text[:500])
        warnings = run("groff", "-man", "-Tutf8", "-ww", "-z", stdin=text.encode()).errors
        tap.equal("and groff has nothing against it", warnings, "")


def completion(tap):
    script = hutch("completion", "bash").text

    def complete(*words):
        program = script + f"""
COMP_WORDS=({' '.join(repr(word) for word in ('hutch',) + words)})
COMP_CWORD={len(words)}
_hutch
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        return run("bash", "-c", program).text.split()

    tap.equal("bash completes verbs", complete("ma"), ["machine"])
    tap.equal("and theirs", complete("machine", "st"), ["start", "stop", "status"])
    tap.equal("and options", complete("run", "--mem"), ["--memory"])
    tap.equal("the server's too", complete("serve", "--tls"), ["--tls-cert", "--tls-key", "--tls-self-made"])
    tap.equal("and its verbs'", complete("token", "create", "--or"), ["--org"])
    tap.equal("behind the value of an option too", complete("run", "--memory", "1GiB", "--tim"), ["--timeout", "--timings"])
    tap.equal("but not those of a command", complete("run", "--", "ls", "--mem"), [])
    for shell in ("zsh", "fish"):
        text = hutch("completion", shell).text
        tap.check(f"{shell} gets all verbs", all(verb in text for verb in VERBS), text[:300])
        tap.equal(f"{shell} can read it", run(shell, "-n", stdin=text.encode()).code, 0)


def doctor(tap):
    result = hutch("doctor", "--json")
    report = json.loads(result.text)
    checks = {check["name"]: check for check in report["checks"]}
    names = {"kvm", "kernel", "image", "layer", "agent", "cgroups", "namespaces", "memory", "disk", "machine"}
    tap.equal("doctor looks at everything", set(checks), names)
    tap.check("each red has a command that mends it, each green none",
              all(bool(check["fix"]) != check["ok"] for check in checks.values()), result)
    tap.equal("its exit code says whether guests run", result.code, 0 if report["ok"] else 1)
    tap.check("and they do here", report["ok"] and report["path"] in ("kvm", "machine"), result)
    text = hutch("doctor").text
    tap.equal("the text has a line for each", sum(line.startswith(("green", "red")) for line in text.splitlines()), len(names), text)
    with harness.scratch() as empty:
        result = hutch("doctor", "--json", env=harness.environment(HUTCH_SHARE=empty))
        tap.check("an empty share folder makes it red", result.code == 1 or result.code == 125, result)
        share = pathlib.Path(empty)
        for name in ("hutch-vmm", "hutch-agent"):
            os.symlink(harness.SHARE / name, share / name)
        for name in ("vmlinux", "initramfs.cpio", "core.erofs", "layer.ext4"):
            (share / name).write_bytes(b"not this" * 1000)
        found = {check["name"]: check["ok"] for check in json.loads(hutch("doctor", "--json", env=harness.environment(HUTCH_SHARE=empty)).text)["checks"]}
        tap.equal("files of the wrong kind are red", [found[name] for name in ("kernel", "image", "layer", "agent")], [False] * 4)
    result = hutch("doctor", env=harness.environment(HUTCH_SCRATCH="/proc"))
    tap.check("a scratch folder that cannot be used is red", "\nred   disk" in result.text, result)


def tests(tap):
    wrong_usage(tap)
    texts(tap)
    completion(tap)
    doctor(tap)
