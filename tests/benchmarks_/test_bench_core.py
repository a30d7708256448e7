"""The benchmarks run, and print and write a figure for every row. No figure is asserted."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = {
    "psycopg_pool": "psycopg_pool",
    "SQLAlchemy QueuePool": "sqlalchemy",
    "DBUtils PooledDB": "dbutils",
}


def run(script: str, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    return ended.stdout


pytestmark = pytest.mark.exhaustive  # no promise of a pool's, and half a minute


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    file = tmp_path_factory.mktemp("figures") / "figures.json"
    plot = file.with_name("plot.svg")
    return run("bench_core.py", "--quick", "--json", str(file), "--plot", str(plot)), file


@pytest.fixture
def tables(figures: tuple[str, Path]) -> list[dict[str, Any]]:
    return list(json.loads(figures[1].read_text())["tables"])


def test_every_measurement_is_made(tables: list[dict[str, Any]]) -> None:
    assert [table["key"] for table in tables] == [
        "idle",
        "queries",
        "held",
        "restart",
        "exceptions",
        "spike",
    ]


def test_every_row_is_finite(tables: list[dict[str, Any]]) -> None:
    for table in tables:
        assert "dbpool" in table["rows"], table["key"]
        for name, row in table["rows"].items():
            assert row.keys() == table["columns"].keys(), name
            for cell in row.values():
                assert all(map(math.isfinite, (cell["median"], *cell["spread"]))), name


def test_every_row_is_printed(figures: tuple[str, Path], tables: list[dict[str, Any]]) -> None:
    for table in tables:
        assert table["title"] in figures[0]
        for name in (*table["rows"], *table["without_figures"]):
            assert f"\n  {name} " in figures[0]


def test_a_pool_that_is_not_installed_is_said_to_be_missing(tables: list[dict[str, Any]]) -> None:
    absent = {name for name, package in PEERS.items() if not importlib.util.find_spec(package)}
    for table in tables:
        said = {name for name, why in table["without_figures"].items() if why == "not installed"}
        assert absent & said == absent
        assert not any(name.split(",")[0] in PEERS.keys() - absent for name in said)


def test_every_goal_is_judged_or_said_to_be_open(tables: list[dict[str, Any]]) -> None:
    goals = [goal for table in tables for goal in table["goals"]]
    assert len(goals) == 12
    for goal in goals:
        assert (goal["met"] is None) == (goal["found"] == "-")


def test_the_figures_can_be_drawn(figures: tuple[str, Path], tmp_path: Path) -> None:
    drawn = tmp_path / "figures.svg"
    run("plot.py", str(figures[1]), str(drawn))
    texts = [text.text or "" for text in xml.etree.ElementTree.parse(drawn).iter()]
    assert texts.count("dbpool") == 2
    assert texts.count("psycopg2.pool") == 2
    assert drawn.read_text() == figures[1].with_name("plot.svg").read_text()
