"""Playing one scenario with each pool, and the table that comes of it: printed, and as a page."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

from tests.outages.crowd import PROCESSES, SIZE, THREADS
from tests.outages.load import ACQUIRE, STATEMENT
from tests.outages.scenarios import Idle, Result, Scenario

__all__ = ["OURS", "Page", "as_text", "play", "table"]

OURS = "dbpool"

# Told of each scenario, where they are no mark of it: title, name in Figures.
TOLD = (
    ("first error, s", "first_error"),
    ("longest beyond deadline, s", "overrun"),
    ("errors per thread", "per_thread"),
    ("connects/s/process", "attempts"),
    ("first success, s", "first_success"),
    ("95 % again, s", "recovered"),
    ("errors after heal", "late"),
    ("slots lost", "lost"),
    ("wrong tokens", "wrong"),
    ("heartbeat gap, s", "gap"),
    ("heartbeat gap before, s", "gap_before"),
)
_NEVER = ("first_success", "recovered")  # figures that are told as more than was looked for


def play(
    scenario: Scenario | Idle, runs: dict[str, int], seconds: float | None
) -> dict[str, list[Result]]:
    """Run it with every pool in turn, so often."""
    results: dict[str, list[Result]] = {name: [] for name in runs}
    for number in range(max(runs.values())):
        for name in runs:
            if number < runs[name]:
                results[name].append(scenario.run(name, seconds=seconds))
    return results


def table(
    scenario: Scenario | Idle, results: dict[str, list[Result]]
) -> tuple[list[list[str]], int]:
    """Return the rows, the first of them the heading, and how many marks ours missed.

    A run that proves nothing meets none, and what it lacks is said in a row of its own.
    """
    missed = 0
    rows = [["worst of the runs", "at most", *results]]
    for mark in scenario.marks:
        row = [mark.title, f"{mark.most:g}"]
        for name, ran in results.items():
            values = [mark.value(result) for result in ran]
            met = all(mark.met(value) for value in values) and not any(r.unproved for r in ran)
            row.append(_worst(values, mark.figure, scenario.after) + ("" if met else " !"))
            missed += not met and name == OURS
        rows.append(row)
    lacking = {name: {r.unproved for r in ran} - {""} for name, ran in results.items()}
    if any(lacking.values()):
        rows.append(["proves nothing", "", *("; ".join(sorted(why)) for why in lacking.values())])
    marks = {mark.figure for mark in scenario.marks}
    seen = {name: [r.figures for r in ran if r.figures] for name, ran in results.items()}
    if not any(seen.values()):
        return rows, missed
    for title, figure in TOLD:
        if figure not in marks:
            cells = ([getattr(one, figure) for one in found] for found in seen.values())
            rows.append([title, "", *(_worst(values, figure, scenario.after) for values in cells)])
    kinds = (found[-1].kinds.most_common(3) if found else () for found in seen.values())
    told = (", ".join(f"{count} {kind}" for kind, count in most) or "none" for most in kinds)
    rows.append(["errors of one run", "", *told])
    return rows, missed


def _worst(values: list[float | None], figure: str, looked: float) -> str:
    """Return a cell. Arguments: `looked`, for how many seconds a thing was waited for."""
    present = [value for value in values if value is not None]
    if len(present) < len(values):
        if figure in _NEVER:
            return f"> {looked:g}"
        if figure == "late":
            return "never healed"
    return f"{max(present):.4g}" if present else "none"


def as_text(rows: list[list[str]]) -> str:
    """Return the table for a terminal."""
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    lines = (zip(line, widths, strict=True) for line in rows)
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in lines
    )


class Page:
    """The tables as a page of Markdown, written anew with each scenario."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts = [
            "# What callers see of an outage, measured\n\n"
            "Written by `make test-outages`; [outages.md](outages.md) says what is behind it. "
            f"{PROCESSES} processes of {THREADS} threads over {SIZE} connections each call without "
            f"a pause; a caller gives a connection {ACQUIRE:g} s and a statement {STATEMENT:g} s, "
            "where its pool can bound that. Each cell is the worst of the runs; `!` is a mark "
            "missed. `heartbeat gap before` is what the machine does by itself.\n\n" + _machine()
        ]

    def add(self, scenario: Scenario | Idle, rows: list[list[str]], said: str) -> None:
        """Add a scenario's table."""
        part = f"## {scenario.name}\n\n{scenario.about} {said}"
        if rows:
            heading, *others = ("| " + " | ".join(row) + " |" for row in rows)
            part += "\n\n" + "\n".join([heading, "|---" * len(rows[0]) + "|", *others])
        self._parts.append(part)
        self._path.write_text("\n\n".join(self._parts) + "\n")


def _machine() -> str:
    """Return what it ran on, in a sentence."""
    names = ("psycopg2-binary", "psycopg", "psycopg-pool", "SQLAlchemy")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"{datetime.datetime.now(tz=datetime.timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}, {', '.join(versions)}; load "
        f"{os.getloadavg()[0]:.1f} at the beginning."
    )
