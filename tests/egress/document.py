"""docs/egress.md: the table as people read it, with what the last full run found."""

import importlib
import pathlib

import table

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs/egress.md"
POLICIES = ("none", "listed", "all")
HEAD = """# What a sandbox can reach

Attacks on the network of a sandbox, and what must come of them. Each row is tried under three policies:
*none* (`allowNet: []`), *listed* (a list of hosts, `tests/egress/bed.py`), *all* (the whole Internet, below which the floor
still holds); at two levels: *library*, the network, the policy and the broker without a machine, and *guest*, a real
guest. A row holds when the sandbox saw what it must, when the world outside, which owns every address there is, got not one
frame that the row does not name, and when what is allowed worked after the attack. Written by
`tests/egress/run --markdown docs/egress.md`; `tools/dev test egress` fails when a row does not hold or this page has other
rows.

{counts}

| Row | Attack | What must come of it | library | guest |
|---|---|---|---|---|
"""


def load_rows():
    for path in sorted(HERE.glob("rows_*.py")):
        importlib.import_module(path.stem)


def found(row, level, results):
    if level in row.levels:
        return f"not looked at: {row.levels[level]}"
    faults = {policy: results.get(row.number, {}).get(f"{policy} {level}") for policy in POLICIES}
    if None in faults.values():
        return "not run"
    failed = [policy for policy in POLICIES if faults[policy]]
    return f"fails ({', '.join(failed)})" if failed else "holds"


def write(results):
    lines, counts = [], {}
    for _, row in sorted(table.ROWS.items()):
        cells = [found(row, level, results) for level in table.LEVELS]
        for cell in cells:
            word = cell.split(":")[0].split(" (")[0]
            counts[word] = counts.get(word, 0) + 1
        lines.append(f"| {row.number} | {row.title} | {row.expected} | {' | '.join(cells)} |")
    summary = ", ".join(f"{number} {word}" for word, number in sorted(counts.items(), key=lambda item: -item[1]))
    return HEAD.format(counts=f"{len(lines)} rows at two levels: {summary}.") + "\n".join(lines) + "\n"


def matches():
    """Whether the page has the rows of the table, in their words."""
    if not PAGE.exists():
        return False
    wanted = [[row.number, row.title, row.expected] for _, row in sorted(table.ROWS.items())]
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| B")]
    return [[cell.strip() for cell in line.split("|")[1:4]] for line in lines] == wanted
