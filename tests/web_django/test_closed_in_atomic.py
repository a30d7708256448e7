"""A connection that is closed inside an atomic block fails there as it does without a pool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import inside

OURS = "dbpool_django.backends."
PLAIN = "django.db.backends."


def _steps(alias: str) -> dict[str, Callable[[], object]]:
    from django.db import close_old_connections, connections, transaction

    connection = connections[alias]

    def select() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def nested() -> None:
        with transaction.atomic(using=alias):
            select()

    return {
        "query": select,
        "query again": select,
        "nested": nested,
        "close again": connection.close,
        "close_old_connections again": close_old_connections,
        "get_autocommit": connection.get_autocommit,
        "savepoint": connection.savepoint,
        "commit": lambda: transaction.commit(using=alias),
        "is_usable": connection.is_usable,
        "ensure_connection": connection.ensure_connection,
        "on_commit": lambda: transaction.on_commit(print, using=alias),
        "query at last": select,
    }


def _seen(alias: str, closing: str) -> list[tuple[str, str]]:
    """Return what each step does after that, and how the block ends."""
    from django.db import close_old_connections, connections, transaction

    connection = connections[alias]
    connection.ensure_connection()
    seen: list[tuple[str, str]] = []

    def note(step: str, action: Callable[[], object]) -> None:
        try:
            seen.append((step, repr(action())))
        except Exception as error:  # noqa: BLE001 - that is what is compared
            seen.append((step, f"{type(error).__module__}.{type(error).__name__}: {error}"))

    def block() -> None:
        with transaction.atomic(using=alias):
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            {"close": connection.close, "old": close_old_connections}[closing]()
            for step, action in _steps(alias).items():
                note(step, action)

    note("end of the block", block)
    note("afterwards", _steps(alias)["query"])
    seen.append(("state", repr((connection.in_atomic_block, connection.needs_rollback))))
    connection.close()
    return seen


def _compare() -> None:
    from django.db import connections

    for closing in ("close", "old"):
        connections["plain"].ensure_connection()
        plain = _seen("plain", closing)
        ours = _seen("default", closing)
        assert ours == plain
    connections["plain"].close()
    inside.audit(connections["default"].pool)


@pytest.mark.project(pool={"max_size": 1}, tables=False)
def test_a_query_after_the_close_fails_as_without_a_pool() -> None:
    from django.db import connections

    settings = connections.settings["default"]
    options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
    connections.settings["plain"] = {**settings, "ENGINE": f"{PLAIN}postgresql", "OPTIONS": options}
    _compare()


@pytest.mark.project(pool={"max_size": 1}, tables=False)
def test_so_does_one_of_sqlite(tmp_path: Path) -> None:
    from django.db import connections

    file: dict[str, Any] = {"NAME": str(tmp_path / "file.db"), "OPTIONS": {}}
    for alias, engine in (("plain", PLAIN), ("default", OURS)):
        settings = connections.settings["default"]
        connections.settings[alias] = {**settings, **file, "ENGINE": f"{engine}sqlite3"}
        if hasattr(connections._connections, alias):  # type: ignore[attr-defined]
            del connections[alias]
    _compare()
