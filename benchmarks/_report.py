"""One table per measurement: medians with their spread, the goals, and whether they were met."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

__all__ = ["Column", "Goal", "Table", "rotated"]


@dataclass(frozen=True)
class Column:
    """What is measured, and how it is written."""

    key: str
    heading: str
    form: str = "{:.2f}"


@dataclass(frozen=True)
class Goal:
    """A figure that was set before the measuring; `met` is None where it could not be told."""

    text: str
    found: str
    met: bool | None

    def __str__(self) -> str:
        word = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return f"  goal: {self.text}: {self.found} -> {word}"


@dataclass
class Table:
    """Values by row and column, one per round."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)  # rows without figures, and why
    notes: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def add(self, name: str, **values: float) -> None:
        """Add the values of one round."""
        row = self.rows.setdefault(name, {column.key: [] for column in self.columns})
        for key, value in values.items():
            row[key].append(value)

    def missing(self, name: str, why: str = "not installed") -> None:
        """Say why there are no figures."""
        self.words[name] = why

    def median(self, name: str, key: str) -> float | None:
        """Return the median over the rounds; None if there is none."""
        values = self.rows.get(name, {}).get(key)
        return median(values) if values else None

    def ratio(self, name: str, other: str, key: str) -> float | None:
        """Return the median of the rounds' ratios: what disturbs a round disturbs both."""
        ours, theirs = (self.rows.get(row, {}).get(key) for row in (name, other))
        if not ours or not theirs:
            return None
        return median(a / b for a, b in zip(ours, theirs, strict=True))

    def ratio_of_best(self, name: str, other: str, key: str) -> float | None:
        """Return the ratio of the two rows' fastest eighths, for what only the processor bounds."""
        ours, theirs = (self.rows.get(row, {}).get(key) for row in (name, other))
        return _low(ours) / _low(theirs) if ours and theirs else None

    def goal(
        self,
        text: str,
        found: float | None,
        *,
        most: float = math.inf,
        least: float = -math.inf,
        form: str = "{:.2f}",
    ) -> None:
        """Hold a figure against its bounds; None is a peer that is not there."""
        met = None if found is None else least <= found <= most
        self.goals.append(Goal(text, "-" if found is None else form.format(found), met))

    def lines(self) -> Iterator[str]:
        """Yield the table as text."""
        yield f"\n{self.title}"
        width = max(len(name) for name in (*self.rows, *self.words))
        headings = [column.heading for column in self.columns]
        cells = {name: [self._cell(name, c) for c in self.columns] for name in self.rows}
        widths = [
            max(len(text) for text in column)
            for column in zip(headings, *cells.values(), strict=True)
        ]
        for name, row in {"": headings, **cells}.items():
            padded = (text.rjust(size) for text, size in zip(row, widths, strict=True))
            yield f"  {name:<{width}}  {'   '.join(padded)}"
        for name, why in self.words.items():
            yield f"  {name:<{width}}  {why}"
        for note in self.notes:
            yield f"  ({note})"
        yield from map(str, self.goals)

    def page(self) -> Iterator[str]:
        """Yield the table as Markdown: medians, notes and goals."""
        yield f"**{self.title}**"
        yield ""
        yield "| | " + " | ".join(column.heading for column in self.columns) + " |"
        yield "|---" * (1 + len(self.columns)) + "|"
        for name, row in self.rows.items():
            cells = (c.form.format(median(row[c.key])) if row[c.key] else "-" for c in self.columns)
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""
        for text in (*self.notes, *(str(goal).strip() for goal in self.goals)):
            yield f"* {text}"

    def _cell(self, name: str, column: Column) -> str:
        values = self.rows[name][column.key]
        if not values:
            return "-"
        low, high = _spread(values)
        middle = column.form.format(median(values))
        return f"{middle} [{column.form.format(low)} - {column.form.format(high)}]"

    def as_json(self) -> dict[str, Any]:
        """Return everything that was printed."""
        return {
            "key": self.key,
            "title": self.title,
            "columns": {column.key: column.heading for column in self.columns},
            "rows": {
                name: {
                    key: {"median": median(values), "spread": _spread(values), "n": len(values)}
                    for key, values in row.items()
                    if values
                }
                for name, row in self.rows.items()
            },
            "without_figures": self.words,
            "notes": self.notes,
            "goals": [
                {"text": goal.text, "found": goal.found, "met": goal.met} for goal in self.goals
            ],
        }


def _low(values: list[float]) -> float:
    """Return the upper end of the lowest eighth."""
    return min(values) if len(values) < 8 else quantiles(values, n=8)[0]


def _spread(values: list[float]) -> tuple[float, float]:
    """Return the middle half of many values, the ends of a few."""
    if len(values) < 8:
        return min(values), max(values)
    first, _, last = quantiles(values, n=4)
    return first, last


def rotated(things: list[Any], by: int) -> list[Any]:
    """Return the list from another beginning: nobody is always first, or always after the same."""
    by %= max(1, len(things))
    return things[by:] + things[:by]
