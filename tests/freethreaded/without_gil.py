"""Run the core's tests where no GIL keeps two threads apart: `without_gil.py [pytest's arguments]`.

Without arguments it only says whether the interpreter is such a one with all that the tests import.
An extension may turn the GIL on again when it is imported; a run with it on proves nothing, so
that is looked at before and after.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = ("core", "drivers")
# What has no build without a GIL, and Django's and Flask's tests with it.
ABSENT = ("psycopg2", "gevent", "psutil", "django", "flask", "celery")


def gil_is_on() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def modules() -> list[str]:
    """Return the test modules that import nothing that is absent here, at their top or within."""
    found = []
    for folder in FOLDERS:
        for path in sorted((TESTS / folder).glob("test_*.py")):
            if not _imported(path) & set(ABSENT):
                found.append(str(path))
    return found


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def main(arguments: list[str]) -> int:
    if not arguments:
        return _look()
    import pytest

    os.environ.setdefault("DBPOOL_TEST_DRIVER", "psycopg")  # for the tests that fork

    class Absent:
        """Skips the cases of a test that turn out to need what is absent."""

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
            report = yield
            error = call.excinfo.value if call.excinfo is not None else None
            if isinstance(error, ModuleNotFoundError) and error.name in ABSENT:
                report.outcome = "skipped"
                report.longrepr = (str(item.path), 0, f"{error.name} has no build without a GIL")
            return report

    status = int(pytest.main([*arguments, *modules()], plugins=[Absent()]))
    if gil_is_on():
        print("the GIL was turned on by something that was imported: this proves nothing")
        return 2
    return status


def _look() -> int:
    """Say whether there is no GIL with all that the tests need."""
    import sqlite3

    import hypothesis
    import psycopg
    import pytest

    import dbpool

    used = (dbpool, hypothesis, psycopg, pytest, sqlite3)
    if gil_is_on():
        names = ", ".join(module.__name__ for module in used)
        print(f"the GIL is on in {sys.executable} with {names} imported: this proves nothing")
        return 2
    print(f"Python {sys.version.split()[0]}, psycopg {psycopg.__version__}, no GIL")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS.parent))
    sys.exit(main(sys.argv[1:]))
