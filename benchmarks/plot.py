"""Draw the figures of a run for the README, as an SVG that is legible in light and dark.

make bench ARGS='--json figures.json'
python benchmarks/plot.py figures.json docs/benchmarks.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

OURS = "dbpool"
WIDTH, NAMES, BARS, LINE = 760, 190, 330, 24

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; }
.quiet { fill: #59636e; }
.bar { fill: #afb8c1; }
.ours { fill: #0969da; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .quiet { fill: #9198a1; }
  .bar { fill: #656c76; }
  .ours { fill: #4493f8; }
}
"""


def panel(
    table: dict[str, Any], title: str, key: str, words: dict[str, str], top: int
) -> Iterator[str]:
    """Yield one bar for each row in `words`, which says what to write behind it."""
    yield f'<text class="title" x="0" y="{top}">{escape(title)}</text>'
    values = {name: table["rows"][name][key]["median"] for name in words}
    most = max(values.values())
    for number, (name, value) in enumerate(values.items(), 1):
        y = top + number * LINE
        bar = "ours" if name.startswith(OURS) else "bar"
        length = max(1.0, BARS * value / most)
        yield f'<text x="{NAMES - 10}" y="{y}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect class="{bar}" x="{NAMES}" y="{y - 12}" width="{length:.1f}" height="16"/>'
        yield (
            f'<text class="quiet" x="{NAMES + length + 8:.1f}" y="{y}">{escape(words[name])}</text>'
        )


def idle(table: dict[str, Any], top: int) -> list[str]:
    """Draw what a pool costs when nobody has to wait."""
    shown = [name for name in table["rows"] if "," not in name and "alone" not in name]
    words = {name: f"{table['rows'][name]['us']['median']:.2f} µs" for name in shown}
    return list(
        panel(table, "Take an idle connection and return it (shorter is better)", "us", words, top)
    )


def threads(table: dict[str, Any], top: int) -> list[str]:
    """Draw how much 32 threads get done on 4 connections, and how long the unluckiest waits."""
    words = {
        name: f"{row['rate']['median'] / 1000:.1f} k/s, longest wait "
        f"{row['longest']['median']:,.0f} ms"
        for name, row in table["rows"].items()
    }
    title = "32 threads on 4 connections, SELECT 1 each time (longer is better)"
    return list(panel(table, title, "rate", words, top))


def draw(figures: dict[str, Any]) -> str:
    """Return the SVG."""
    tables = {table["key"]: table for table in figures["tables"]}
    if missing := {"idle", "queries"} - tables.keys():
        sys.exit(f"there are no figures of {', '.join(sorted(missing))}: run without --only")
    about = figures["environment"]
    lines = idle(tables["idle"], 20)
    top = 20 + (len(lines) // 3 + 2) * LINE
    lines += threads(tables["queries"], top)
    top += (len(tables["queries"]["rows"]) + 2) * LINE
    busy = ", busy with other work too" if about["load"] > about["processors"] / 2 else ""
    run = (
        f"Medians of one run: Python {about['python']}, PostgreSQL "
        f"{about['postgresql'].split()[0]}, {about['processors']} processors{busy}."
    )
    drivers = "psycopg_pool works on psycopg 3; where nothing is said, the others on psycopg2."
    for number, words in enumerate((run, drivers)):
        y = top + number * 18
        lines.append(f'<text class="quiet" x="0" y="{y}">{escape(words)}</text>')
    top += 18
    height = top + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="Benchmarks of dbpool">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(lines) + "\n</svg>\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python benchmarks/plot.py FIGURES.json FILE.svg")
    Path(sys.argv[2]).write_text(draw(json.loads(Path(sys.argv[1]).read_text())))
