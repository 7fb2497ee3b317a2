"""The examples of the client's own README, each run unchanged as a program of its own under Deno.

They are read out of the installed package; what each must print is said here by its heading. An
example that is not named here fails, so that a new version of the client is noticed.
"""

import os
import pathlib
import re
import subprocess
import tempfile
import time

BLOCK = re.compile(r"^(#+ [^\n]*)$|^```(?:ts|js)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# By heading and number under it: what its output must hold, as patterns of lines. It must end well.
PRINTS = {
    ("Quick Start", 1): [r"drwx.* usr$", r"drwx.* tmp$"],
    ("Evaluate a JS snippet", 1): [r"^result: 3$"],
    ("Spawn a subprocess, and get buffered output", 1): [r"^result: /home/app$"],
    ("Interactive JavaScript REPL", 1): [r"^result: 50$"],
    ("Error handling with noThrow()", 1): [r"^Command failed: SandboxCommandError", r"^Exit code: 1$", r"^Success: false$"],
    # Its signal is lost when the client makes the text's command of it, so it sleeps for 30 s.
    ("Command cancellation", 1): [],
    ("Error handling with custom error class", 1): [r"^Exit code: 42$", r"^Error message: .*42"],
    ("Set environment variables", 1): [r"^API_KEY: secret-key-123$"],
    ("Stream command output to local file", 1): [r"^done: \{", r"success: true", r"code: 0"],
    ("Upload local files or directories", 1): [],
    ("Control sandbox timeout", 1): [],
    ("Control sandbox timeout", 2): [r"^Still alive!$"],
    ("Configure sandbox memory", 1): [],
    ("Configure sandbox memory", 2): [r"^Total memory: (39|40|41|42)\d{8}$"],
    ("Compatibility note on `await using`", 1): [],
    ("In which region are my sandboxes running?", 1): [],
}
# They end with an error wherever they run: the files that they remove or read are not there.
ENDS_WITH = {
    ("Template literal commands with variable interpolation", 1): r"rm: cannot remove 'file1.txt'",
    ("Access both string and binary output", 1): r"cat: binary-file.png: No such file",
    # The tests' example.com has nobody who could show its certificate: curl finds it, and no server.
    ("Restrict outbound network access", 1): r"curl: \((7|35|56)\)",
}
# What does not exist yet fails, and says so; without a network the first does not get as far.
NOT_YET = {
    ("Create a package.json, install deps, run a web framework (Express), and expose it publicly", 1): r"dns error",
    ("VSCode browser instance", 1): r"vscode is not supported by this sandbox",
    **{(heading, 1): r"NOT_SUPPORTED" for heading in (
        "Get SSH access to the sandbox", "Secret on the Wire")},
    **{(heading, 1): r"this server has no apps yet" for heading in (
        "Creating App", "Listing apps", "Retrieving an app", "Updating app info", "Deleting an app")},
}


def examples(text):
    """(heading, number under it) -> source, in the README's order."""
    found, heading, number = {}, "", 0
    for match in BLOCK.finditer(text):
        if match.group(1):
            heading, number = match.group(1).lstrip("# "), 0
        else:
            number += 1
            found[heading, number] = match.group(2)
    return found


def run_example(source, folder, modules, deno, variables):
    """(status, output) of an example in a folder as it expects it."""
    (folder / "package.json").write_text('{ "type": "module" }')
    (folder / "node_modules").symlink_to(modules)
    (folder / "README.md").write_text("read me\n")
    (folder / "my-project").mkdir()
    (folder / "my-project/main.js").write_text("console.log(1)\n")
    (folder / "example.ts").write_text(source)
    try:
        result = subprocess.run([*map(str, deno), "example.ts"], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=300, env={**os.environ, **variables, "NO_COLOR": "1"})
    except subprocess.TimeoutExpired as error:
        return None, (error.stdout or b"").decode()
    return result.returncode, result.stdout


def tests(tap, modules, deno, variables):
    start = time.monotonic()
    found = examples((modules / "@deno/sandbox/README.md").read_text())
    known = set(PRINTS) | set(ENDS_WITH) | set(NOT_YET)
    if not tap.equal("the client's README has the examples that are known here", set(found), known):
        return
    for key, source in found.items():
        with tempfile.TemporaryDirectory(prefix="hutch-readme-") as name:
            folder = pathlib.Path(name)
            status, output = run_example(source, folder, modules, deno, variables)
            detail = f"status {status}\n{output}"
            if key in PRINTS:
                missing = [line for line in PRINTS[key] if not re.search(line, output, re.MULTILINE)]
                tap.check(f"README: {key[0]} ({key[1]})", status == 0 and not missing, f"missing {missing}\n{detail}")
            elif key in ENDS_WITH:
                tap.check(f"README: {key[0]} ({key[1]}) ends as it must", status == 1 and re.search(ENDS_WITH[key], output), detail)
            else:
                tap.check(f"README: {key[0]} ({key[1]}) is refused as not there yet", status == 1 and re.search(NOT_YET[key], output), detail)
            if key[0] == "Stream command output to local file":
                copy = folder / "big-local-copy.txt"
                tap.check("README: the streamed file is whole", copy.exists() and copy.read_text() == "#" * 5_000_000, detail)
    print(f"# README: {time.monotonic() - start:.0f} s", flush=True)
