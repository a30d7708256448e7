"""The environments of `make test-ecosystem`: what is installed in each, pinned in a lock file.

`environments/NAME.in` names the packages, `environments/NAME.txt` pins them and what they need.
`make ecosystem-lock` pins the newest. Packages that exclude each other get environments apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["ENVIRONMENTS", "TELLING", "lock_file", "locked", "modules"]

HERE = Path(__file__).parent

# By name: the driver that Django takes there.
ENVIRONMENTS: Mapping[str, str] = {"psycopg2": "psycopg2", "psycopg": "psycopg 3"}

# What CI runs: a tracer, a server that forks in C, tenants, a task queue and a pooler.
TELLING = ("ddtrace", "uwsgi", "django_tenants", "celery", "pgbouncer")

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;]+)")


def lock_file(name: str) -> Path:
    """Return the lock file of an environment."""
    return HERE / "environments" / f"{name}.txt"


def canonical(distribution: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def locked(name: str) -> dict[str, str]:
    """Return the pinned version of each distribution of an environment."""
    pins = map(_PIN.match, lock_file(name).read_text().splitlines())
    return {canonical(pin[1]): pin[2] for pin in pins if pin}


def modules(only: Iterator[str] | tuple[str, ...] = ()) -> list[Path]:
    """Return the test modules, or those whose names are given without `test_` and `.py`."""
    found = sorted(HERE.glob("test_*.py"))
    wanted = tuple(only)
    missing = set(wanted) - {path.stem.removeprefix("test_") for path in found}
    if missing:
        raise ValueError(f"no tests for {', '.join(sorted(missing))}")
    return [path for path in found if not wanted or path.stem.removeprefix("test_") in wanted]
