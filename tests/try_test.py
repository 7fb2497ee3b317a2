"""Finds each TRY that stands among the members of a braced initialiser.

TRY leaves the function from within an expression. The compilers then forget the members that were
made already, which are never destroyed: an error leaks memory and file descriptors.
Prints one TAP line.
"""

import pathlib
import re
import subprocess
import sys

TRY = re.compile(r"\bTRY(_CONTEXT)?\(")


def blank(source):
    """The source with comments and what stands in quotes made blanks, each character in its place."""
    return re.sub(r'//[^\n]*|"(\\.|[^"\\\n])*"|\'(\\.|[^\'\\\n])*\'', lambda found: " " * len(found.group()), source)


def is_among_members(source, position):
    """Whether a comma stands before it in the braces around it, or around what it is an argument of."""
    depth, comma = 0, False
    for character in reversed(source[:position]):
        if character in ")]}":
            if character == "}" and depth == 0:
                return False
            depth += 1
        elif character in "([{":
            if depth > 0:
                depth -= 1
            elif character == "{":
                return comma
            else:
                comma = False
        elif depth == 0 and character == ";":
            return False
        elif depth == 0 and character == ",":
            comma = True
    return False


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    listed = subprocess.run(["git", "ls-files", "*.cc", "*.h"], cwd=root, text=True, check=True,
                            stdout=subprocess.PIPE).stdout
    wrong, count = [], 0
    for name in listed.split():
        source = blank((root / name).read_text())
        for match in TRY.finditer(source):
            count += 1
            if is_among_members(source, match.start()):
                wrong.append(f"{name}:{source.count(chr(10), 0, match.start()) + 1}")
    examples = {"Pair p{first(), TRY(second())};": True, "f({.a = a(), .b = TRY(b())});": True,
                "f({TRY(first()), second()});": False, "if (a) { f(x, TRY(b())); }": False,
                "for (T& each : list) {\n  g(a, h({b, c}), TRY(d()));": False, "{a, TRY(f(TRY(b())))}": True}
    for example, expected in examples.items():
        if is_among_members(example, example.index("TRY(")) != expected:
            wrong.append(f"this test itself, of: {example}")
    print("1..1")
    print(f"{'not ok' if wrong or count == 0 else 'ok'} 1 - no TRY among the members of an initialiser ({count} looked at)")
    for each in wrong:
        print(f"# {each}: make the value before the initialiser")
    return 1 if wrong or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
