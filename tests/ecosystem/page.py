"""docs/compatibility.md: its table is made from the results, the text around it by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.ecosystem.environments import ENVIRONMENTS

__all__ = ["BEGIN", "END", "sentence", "table", "write"]

BEGIN, END = "<!-- table: made by make test-ecosystem -->", "<!-- end of the table -->"
HEAD = (
    "| package | version | driver | what was tried | result | what to set |\n"
    "|---|---|---|---|---|---|\n"
)


def sentence(test: str) -> str:
    """Return what a test's name says, its parameters in brackets."""
    name, _, parameters = test.removeprefix("test_").partition("[")
    return name.replace("_", " ") + (f" ({parameters.rstrip(']')})" if parameters else "")


def _row(driver: str, entry: Mapping[str, Any]) -> str:
    tried = dict.fromkeys(sentence(row["test"].partition("[")[0]) for row in entry["rows"])
    to_set = {row["to_set"]: None for row in entry["rows"] if row["to_set"]}
    versions = entry["versions"]
    cells = (
        ", ".join(versions) or entry["name"],
        ", ".join(version or "-" for version in versions.values()) or "-",
        driver,
        "; ".join(tried) or "-",
        entry["result"] + (f" ({len(entry['rows'])})" if entry["result"] == "passed" else ""),
        " ".join(to_set) or "nothing",
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
    path.write_text(f"{before}{BEGIN}\n{table(results)}{END}{after}")
