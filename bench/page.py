"""Writes the page of results: docs/benchmarks/README.md, results.json and ratios.svg.

Usage: page.py [--from FILE...], called by tools/dev bench. Runs `hutch bench setup` and `hutch bench boot`,
or takes lists that they wrote before with --json. The plot has the ratio of ours to the peer, with its
95 % interval, of each row.
"""

import html
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/benchmarks"
LEFT, WIDTH, ROW = 300, 420, 34


def run():
    rows, bad = [], False
    for verb in ("setup", "boot"):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            result = subprocess.run([ROOT / "build/cli/hutch", "bench", verb, "--json", file.name])
            # 1: a gate is not met, which the results say.
            if result.returncode not in (0, 1):
                sys.exit(result.returncode)
            bad = bad or result.returncode != 0
            rows += json.loads(pathlib.Path(file.name).read_text())
    return rows, bad


def svg(rows):
    """Ratios from 0 to 1.2; a line at 1."""
    height = ROW * len(rows) + 50
    scale = WIDTH / 1.2
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 120}" height="{height}" '
             'font-family="sans-serif" font-size="13">',
             f'<rect width="{LEFT + WIDTH + 120}" height="{height}" fill="white"/>']
    for tick in range(0, 13, 2):
        x = LEFT + scale * tick / 10
        parts.append(f'<line x1="{x:.1f}" y1="10" x2="{x:.1f}" y2="{height - 35}" '
                     f'stroke="{"#444" if tick == 10 else "#ddd"}"/>'
                     f'<text x="{x:.1f}" y="{height - 18}" text-anchor="middle">{tick / 10:.1f}</text>')
    for number, row in enumerate(rows):
        ratio, y = row["ratio"], 28 + ROW * number
        low, middle, high = (LEFT + scale * min(ratio[name], 1.2) for name in ("low", "median", "high"))
        label = html.escape(f'{row["name"]}, beside {row["peer_name"]}')
        parts.append(f'<text x="{LEFT - 10}" y="{y + 5}" text-anchor="end">{label}</text>'
                     f'<rect x="{LEFT}" y="{y - 8}" width="{middle - LEFT:.1f}" height="16" fill="#7aa6d8"/>'
                     f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="#123" stroke-width="2"/>'
                     f'<text x="{LEFT + WIDTH + 10}" y="{y + 5}">{ratio["median"]:.3f}</text>')
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{height - 2}" text-anchor="middle">'
                 'ours to the peer; the bar is the ratio of medians, the line its 95 % interval</text></svg>')
    return "\n".join(parts) + "\n"


def table(rows):
    lines = ["| row | unit | clock | n | ours p50 | p90 | p99 | peer p50 | peer | ratio (95 % interval) | where |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        ratio, place = row["ratio"], row["place"]
        lines.append(f'| {row["name"]} | {row["unit"]} | {row["clock"]} | {row["n"]} | {row["ours"]:.3f} | '
                     f'{row["p90"]:.3f} | {row["p99"]:.3f} | {row["peer"]:.3f} | {row["peer_name"]} | '
                     f'{ratio["median"]:.3f} ({ratio["low"]:.3f} to {ratio["high"]:.3f}) | '
                     f'{place["path"]}, Linux {place["kernel"]}, {place["cpus"]} CPUs |')
    return "\n".join(lines)


def main():
    bad = False
    if sys.argv[1:2] == ["--from"]:
        rows = [row for name in sys.argv[2:] for row in json.loads(pathlib.Path(name).read_text())]
    else:
        rows, bad = run()
    PAGE.mkdir(exist_ok=True)
    (PAGE / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    (PAGE / "ratios.svg").write_text(svg(rows))
    (PAGE / "README.md").write_text(
        "# Results\n\nWritten by `bench/page.py`, which `tools/dev bench` runs, from what `hutch bench --json` wrote; "
        "[benchmarks.md](../benchmarks.md) says what the rows are. "
        "[results.json](results.json) has the same.\n\n![ratios](ratios.svg)\n\n" + table(rows) + "\n")
    print(f"{PAGE.relative_to(ROOT)} is written")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
