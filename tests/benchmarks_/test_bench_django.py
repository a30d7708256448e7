"""bench_django runs, and prints and writes a figure for every row. No figure is asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks._django_variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
ABSENT = {variant.name for variant in VARIANTS if variant.absent}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    file = tmp_path_factory.mktemp("figures") / "figures.json"
    ended = python("benchmarks/bench_django.py", "--quick", "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    return ended.stdout, json.loads(file.read_text())


@pytest.mark.exhaustive
def test_every_variant_is_measured_or_said_to_be_missing(printed: tuple[str, Any]) -> None:
    tables = printed[1]["tables"]
    assert [table["key"] for table in tables] == ["requests", "checkouts", "crowd"]
    for table in tables:
        assert table["rows"].keys() == {variant.name for variant in VARIANTS} - ABSENT
        assert table["without_figures"] == dict.fromkeys(ABSENT, "not installed")
        for name, row in table["rows"].items():
            assert row.keys() == table["columns"].keys(), name
            for cell in row.values():
                assert all(map(math.isfinite, (cell["median"], *cell["spread"]))), name
            assert f"\n  {name} " in printed[0]


@pytest.mark.exhaustive
def test_every_goal_is_judged_where_there_is_something_to_compare(
    printed: tuple[str, Any],
) -> None:
    goals = [goal for table in printed[1]["tables"] for goal in table["goals"]]
    assert len(goals) == 8
    for goal in goals:
        assert (goal["met"] is None) == (goal["found"] == "-")
        assert f"  goal: {goal['text']}: {goal['found']} -> " in printed[0]
    judged = [goal["text"] for goal in goals if goal["met"] is not None]
    assert "dbpool, psycopg2 <= 25 µs" in judged
    assert "dbpool, psycopg2 <= 1.03 x CONN_MAX_AGE=None, psycopg2" in judged


def test_no_figure_is_of_another_driver_than_its_row_says() -> None:
    # This environment has no psycopg 3 (tests/test_environment.py), so Django takes psycopg2.
    ended = python(
        "-m",
        "benchmarks._django_site",
        "dbpool, psycopg",
        json.dumps({"dbname": "none", "user": "none", "host": "127.0.0.1", "port": 1}),
    )
    assert ended.returncode != 0
    assert "Django takes psycopg2 where psycopg is to be measured" in ended.stderr


def test_a_view_that_fails_is_no_figure() -> None:
    ended = python(
        "-m",
        "benchmarks._django_site",
        "dbpool, psycopg2",
        json.dumps({"dbname": "none", "user": "none", "host": "127.0.0.1", "port": 1}),
    )
    assert ended.returncode != 0
    assert "ready" not in ended.stdout
