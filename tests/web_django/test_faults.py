"""What goes wrong with Django's other backends goes well with ours: the cells of one benchmark.

`make bench-faults` prints them all, beside what the others do. Here each case has to end well with
the driver that Django takes in this environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._faults_columns import COLUMNS
from benchmarks._faults_stage import CASES
from benchmarks.django_faults import measure
from testproject.postgres import PostgresServer
from tests.web_django.project import DRIVER

OURS = {"psycopg2": "dbpool2", "psycopg": "dbpool3"}[DRIVER]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "django_faults.py"


@pytest.mark.parametrize("name", CASES)
def test_no_fault_of_other_backends_is_ours(name: str, own_postgres: PostgresServer) -> None:
    good, said = measure(CASES[name], COLUMNS[OURS], own_postgres.dsn())
    assert good, said


@pytest.mark.parametrize("name", ["raw_begin", "setting_leaks", "isolation_leaks"])
def test_the_same_cases_see_the_faults_of_a_persistent_connection(
    name: str, own_postgres: PostgresServer
) -> None:
    good, said = measure(CASES[name], COLUMNS["persistent"], own_postgres.dsn())
    assert good is False, said
    assert "crashes" not in said


@pytest.mark.exhaustive
def test_the_table_marks_what_is_a_fault() -> None:
    command = [sys.executable, str(SCRIPT), "--rows", "raw_begin", "--columns", OURS, "persistent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "  next write kept" in done.stdout
    assert "! next write LOST" in done.stdout
    assert "Faults of ours: 0" in done.stdout
