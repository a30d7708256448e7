"""The Flask benchmark runs, and prints and writes a figure for every row. None is asserted."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest

from benchmarks._flask_apps import APPS, PACKAGES
from benchmarks.bench_flask import BEGIN, END
from tests.benchmarks_.test_bench_core import run


@pytest.mark.exhaustive
def test_every_app_is_measured_or_said_to_be_missing(tmp_path: Path) -> None:
    file, page = tmp_path / "figures.json", tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    printed = run("bench_flask.py", "--quick", "--json", str(file), "--page", str(page))
    tables = json.loads(file.read_text())["tables"]
    assert [table["key"] for table in tables] == ["flask_1", "flask_16_paced", "flask_16"]
    absent = {name for name, package in PACKAGES.items() if not importlib.util.find_spec(package)}
    for table in tables:
        assert table["title"] in printed
        assert table["without_figures"].keys() == absent
        assert table["rows"].keys() == APPS.keys() - absent
        for name, row in table["rows"].items():
            assert f"\n  {name} " in printed
            for cell in row.values():
                assert all(map(math.isfinite, (cell["median"], *cell["spread"]))), name
                assert cell["median"] > 0, name
        assert len(table["goals"]) == (2 if table["key"] == "flask_16_paced" else 3)
        assert all(goal["met"] is not None for goal in table["goals"])
    written = page.read_text()
    assert written.startswith(f"before\n\n{BEGIN}\n")
    assert written.endswith(f"\n{END}\n\nafter\n")
    assert "old" not in written
    for table in tables:
        assert f"**{table['title']}**\n\n| |" in written
        assert all(f"\n| {name} | " in written for name in table["rows"])
