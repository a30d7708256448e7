"""The tests of this folder need packages of their own, so only `make test-ecosystem` collects them.

Each test module says which distributions it is about:

    pytestmark = pytest.mark.package("ddtrace", to_set="nothing")

The names of its tests, as sentences, are what docs/compatibility.md says was tried.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testproject.postgres import PostgresServer
from tests.ecosystem.promises import Database

RESULTS = "DBPOOL_ECOSYSTEM_RESULTS"  # the file that the runner wants the results in
ENVIRONMENT = "DBPOOL_ECOSYSTEM"  # the name of the environment that the runner has made

if ENVIRONMENT not in os.environ:
    collect_ignore_glob = ["test_*.py"]

_rows: list[dict[str, Any]] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "package(*distributions, to_set=''): what it is about")


def _parameters(item: pytest.Function) -> dict[str, str]:
    """Return a test's parameters by name."""
    callspec = getattr(item, "callspec", None)
    return {name: str(value) for name, value in callspec.params.items()} if callspec else {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment, misc]
    marker = item.get_closest_marker("package")
    if marker is not None and (report.when == "call" or report.outcome != "passed"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _rows.append(
            {
                "packages": marker.args,
                "to_set": marker.kwargs.get("to_set", ""),
                "test": item.originalname,
                "parameters": _parameters(item),
                "outcome": report.outcome,
                "why": why,
            }
        )
    return report  # type: ignore[return-value]


def pytest_sessionfinish() -> None:
    if RESULTS in os.environ:
        Path(os.environ[RESULTS]).write_text(json.dumps(_rows))


@pytest.fixture(scope="session", autouse=True)
def _the_driver_is_the_one_that_the_environment_is_for() -> None:
    """Django takes psycopg 3 wherever it can be imported, and psycopg2 would not be tested."""
    there = importlib.util.find_spec("psycopg") is not None
    assert there == (os.environ[ENVIRONMENT] == "psycopg")


@pytest.fixture
def field() -> Iterator[Database]:
    """Yield a database of the test's own, on a server that the test may break."""
    with PostgresServer() as server:
        yield Database(server)
