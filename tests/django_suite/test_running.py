"""The runner of Django's suite takes nothing for a success that is not one.

The suites here are scripts that end as a suite can: what a hang looks like, no real one shows.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.django_suite.labels import ALL, TELLING
from tests.django_suite.running import Outcome, Wanted, outcome, run
from tests.support.waiting import wait_until

PASSED = "Ran 2 tests in 0.1s\n\nOK (skipped=1)\n"

# As Django's own runtests.py, it loads the settings first.
BEGIN = "import importlib, sys\nimportlib.import_module(sys.argv[2])\n"


def suite(folder: Path, code: str) -> Path:
    (folder / "suite" / "tests").mkdir(parents=True)
    (folder / "suite" / "tests" / "runtests.py").write_text(BEGIN + code)
    (folder / "suite" / "tests" / "test_sqlite.py").write_text("USE_TZ = False")
    return folder / "suite"


def result(
    tmp_path: Path, code: str, driver: str = "sqlite3", timeout: float = 60.0
) -> tuple[Outcome, str]:
    wanted = Wanted("dbpool_django.backends.sqlite3", driver, ["basic"], timeout=timeout)
    place = tmp_path / "run"
    place.mkdir()
    return run(wanted, suite(tmp_path, code), tmp_path, None, place)


@pytest.mark.parametrize(
    ("last", "found"),
    [
        ("OK", Outcome(7)),
        ("OK (skipped=2, expected failures=1)", Outcome(7, skipped=2)),
        ("FAILED (failures=1, errors=2, skipped=3)", Outcome(7, 1, 2, 3)),
        ("FAILED (unexpected successes=1)", Outcome(7, 1)),
        ("Fatal Python error: Segmentation fault", Outcome(None)),
    ],
)
def test_the_summary_is_read(last: str, found: Outcome) -> None:
    assert outcome(f"...\nRan 7 tests in 1.2s\n\n{last}\nDestroying test database\n") == found


def test_no_test_at_all_is_not_a_success() -> None:
    assert not outcome("Ran 0 tests in 0.0s\n\nOK\n").good
    assert not outcome("").good


def test_a_suite_that_passes_has_passed(tmp_path: Path) -> None:
    found, text = result(tmp_path, f"print({PASSED!r})")
    assert (found, found.good) == (Outcome(2, skipped=1), True)
    assert "Ran 2 tests" in text


def test_the_settings_are_djangos_own_but_for_the_databases(tmp_path: Path) -> None:
    found, text = result(
        tmp_path,
        f"""
import suite_settings
print(suite_settings.USE_TZ, *suite_settings.DATABASES)
print({PASSED!r})
""",
    )
    assert found.good
    assert text.startswith("False default other")


def test_a_crash_after_the_summary_is_not_a_success(tmp_path: Path) -> None:
    found, _ = result(tmp_path, f"print({PASSED!r}, flush=True)\nimport os\nos._exit(3)")
    assert found == Outcome(None)


def test_a_hang_after_the_summary_is_not_a_success_and_leaves_no_process(tmp_path: Path) -> None:
    code = f"""
import os, subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print({PASSED!r}, child.pid, flush=True)
time.sleep(600)
"""
    found, text = result(tmp_path, code, timeout=6.0)
    assert found == Outcome(None)
    worker = int(text.split()[-1])
    wait_until(lambda: not _runs(worker), timeout=10.0)


def _runs(pid: int) -> bool:
    """Return whether a process executes; one that is dead and not yet reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_another_driver_than_the_one_meant_is_not_a_success(tmp_path: Path) -> None:
    # This environment has no psycopg 3 (tests/test_environment.py).
    found, text = result(tmp_path, f"print({PASSED!r})", driver="psycopg")
    assert found == Outcome(None)
    assert "Django takes psycopg2 here, this run is to test psycopg." in text


def test_the_telling_labels_come_first_and_none_comes_twice() -> None:
    assert ALL[: len(TELLING)] == TELLING
    assert (len(TELLING), len(ALL), len(set(ALL))) == (13, 39, 39)
