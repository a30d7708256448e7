"""docs/compatibility.md: its table is made from the results, the text around it by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.ecosystem.environments import ENVIRONMENTS

__all__ = ["BEGIN", "END", "table", "tried", "write"]

BEGIN, END = "<!-- table: made by make test-ecosystem -->", "<!-- end of the table -->"
HEAD = (
    "| package | version | driver | what was tried | result | what to set |\n"
    "|---|---|---|---|---|---|\n"
)


def tried(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the names of the tests say, each with its parameters' values in brackets."""
    by_test: dict[str, dict[str, dict[str, None]]] = {}
    for row in rows:
        values = by_test.setdefault(row["test"], {})
        for name, value in row["parameters"].items():
            values.setdefault(name, {})[value] = None
    return "; ".join(
        test.removeprefix("test_").replace("_", " ")
        + (f" ({'; '.join(map(', '.join, values.values()))})" if values else "")
        for test, values in by_test.items()
    )


def _row(driver: str, entry: Mapping[str, Any]) -> str:
    rows = [row for row in entry["rows"] if row["outcome"] != "skipped"]
    to_set = {row["to_set"]: None for row in rows}
    versions = entry["versions"]
    cells = (
        ", ".join(versions) or entry["name"],
        ", ".join(version or "-" for version in versions.values()) or "-",
        driver,
        tried(rows) or "-",
        entry["result"] + (f" ({len(rows)})" if entry["result"] == "passed" else ""),
        " ".join(to_set) or "-",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the table: a row for each package and driver."""
    rows = [
        (entry["name"], _row(ENVIRONMENTS[name], entry))
        for name, entries in results.items()
        for entry in entries
    ]
    return HEAD + "".join(row for _, row in sorted(rows, key=lambda pair: pair[0]))


def write(path: Path, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Replace the table of the page."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    beside = {entry["beside"]: None for entries in results.values() for entry in entries}
    made = f"Made with {' and with '.join(beside)}.\n\n"
    path.write_text(f"{before}{BEGIN}\n{made}{table(results)}{END}{after}")
