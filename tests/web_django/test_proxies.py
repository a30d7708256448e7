"""Nothing in the adapter takes what it gets from outside for the driver's own (`reset="auto"`).

A tracer's proxy stands for a connection or a cursor, another backend makes the cursors, a class of
the project's has a `cursor()` of its own: all is as without, or the session is cleaned each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import inside
from tests.support.proxies import ConnectionProxy, CursorProxy, trace
from tests.web_django.project import DRIVER, Project

ONE = {"max_size": 1}

STATE = (
    "SELECT current_setting('search_path') = 'pg_catalog', current_user::text,"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
    " to_regclass('pg_temp.leftover')::text,"
    " coalesce(nullif(current_setting('shop.tenant', true), ''), 'nobody'),"
    " (SELECT count(*) FROM pg_listening_channels())"
)
LEAVING = (
    "SET search_path TO pg_catalog",
    "SELECT pg_advisory_lock(7)",
    "CREATE TEMP TABLE leftover (id int)",
    "SELECT set_config('shop.tenant', 'a', false)",
    "LISTEN somebody",
    "SET ROLE pg_monitor",
)


def _state() -> Any:
    """Return what the next borrower of the one connection finds."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(STATE)
        found = cursor.fetchone()
    connection.close()
    inside.audit(connection.pool)
    return found


def _by_django(statement: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)


def _by_a_raw_cursor(statement: str) -> None:
    from django.db import connection

    connection.connection.cursor().execute(statement)


def _by_what_execute_returns(statement: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        (cursor.cursor.execute("SELECT 1") or cursor.cursor).execute(statement)


def _by_the_connection(statement: str) -> None:
    from django.db import connection

    raw = connection.connection
    raw.execute(statement) if hasattr(raw, "execute") else raw.cursor().execute(statement)


def _by_a_cursor_with_a_name(statement: str) -> None:
    from django.db import connection

    if statement.startswith("SELECT"):  # what DECLARE takes
        with connection.chunked_cursor() as cursor:
            cursor.execute(statement)
            cursor.fetchall()
    else:
        _by_django(statement)


WAYS = (
    _by_django,
    _by_a_raw_cursor,
    _by_what_execute_returns,
    _by_the_connection,
    _by_a_cursor_with_a_name,
)


def _attack(*ways: Callable[[str], None], connects: int = 1) -> None:
    """Have a borrower leave all that a session can keep, one thing after the other, each way."""
    from django.db import connection

    before = connection.pool.get_stats()["connections_num"]
    clean = _state()
    for way in ways or WAYS:
        for statement in LEAVING:
            connection.ensure_connection()
            way(statement)
            connection.close()
            assert _state() == clean, (way.__name__, statement)
    assert connection.pool.get_stats()["connections_num"] - before == connects


def _cleanings() -> list[Any]:
    """Return the list of the sessions that are cleaned from now on."""
    from django.db import connection

    opener, cleaned = connection._dbpool_supplier().opener, []
    discard = opener.discard_session
    opener.discard_session = lambda conn: cleaned.append(conn) or discard(conn)
    return cleaned


@pytest.mark.project(pool=ONE, tables=False)
@pytest.mark.parametrize("layers", [1, 2])
def test_nothing_reaches_the_next_borrower_through_tracers_proxies(
    monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    from django.db import connection

    trace(monkeypatch, layers)
    connection.ensure_connection()
    assert type(connection.connection) is ConnectionProxy
    assert type(connection.connection.__wrapped__) is not ConnectionProxy or layers == 2
    connection.close()
    _attack(connects=0)


@pytest.mark.project(pool=ONE)
def test_ordinary_work_on_proxies_costs_no_cleaning(
    monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    from django.db import connection, transaction

    from tests.web_django.shelf.models import Book

    trace(monkeypatch)
    cleaned = _cleanings()
    with transaction.atomic():
        Book.objects.create(title="one")
    assert Book.objects.get().title == "one"
    assert [book.title for book in Book.objects.iterator(chunk_size=1)] == ["one"]
    connection.close()
    assert cleaned == []
    assert project.titles() == ["one"]
    assert connection.pool.get_stats()["connections_num"] == 1


@pytest.mark.project(pool=ONE, tables=False)
def test_a_cursor_kept_on_proxies_cannot_reach_the_next_borrower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from django.db import connection

    trace(monkeypatch)
    _expect_a_kept_cursor_to_be_shut(lambda: connection.cursor())


def _expect_a_kept_cursor_to_be_shut(make: Callable[[], Any]) -> None:
    from django.db import connection

    kept = make()
    kept.execute("SELECT 1")
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'another one''s'")
        # psycopg2's cursors with a name take one statement in their lives, closed or not.
        with pytest.raises(Exception, match=r"closed|more than once"):
            kept.execute("SELECT 2")
        with pytest.raises(Exception, match=r"closed|valid|no result"):
            kept.fetchall()
    connection.close()


def _override(monkeypatch: pytest.MonkeyPatch, name: str, method: Any) -> None:
    """Give the project a wrapper class of its own, over ours."""
    from django.db import connections

    class DatabaseWrapper(type(connections["default"])):  # type: ignore[misc]
        pass

    setattr(DatabaseWrapper, name, method)
    monkeypatch.setattr(connections["default"], "__class__", DatabaseWrapper)


@pytest.mark.project(pool=ONE, tables=False)
def test_cursors_that_another_backend_makes_past_ours_are_watched_and_shut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As django-prometheus' does, over ours.
    from django.db import connection
    from django.db.backends.postgresql import base

    def create_cursor(self: Any, name: str | None = None) -> Any:
        return base.DatabaseWrapper.create_cursor(self, name=name)

    _override(monkeypatch, "create_cursor", create_cursor)
    _attack()
    _expect_a_kept_cursor_to_be_shut(lambda: connection.cursor())
    _expect_a_kept_cursor_to_be_shut(lambda: connection.chunked_cursor())


@pytest.mark.project(pool=ONE, tables=False)
@pytest.mark.parametrize("kind", ["a proxy", "a class of its own"])
def test_cursors_that_another_backend_makes_in_its_own_way_are_watched_and_shut(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from django.db import connection
    from django.db.backends.postgresql import base

    def create_cursor(self: Any, name: str | None = None) -> Any:
        if kind == "a proxy":
            return CursorProxy(base.DatabaseWrapper.create_cursor(self, name=name))
        if DRIVER == "psycopg2":
            return self.connection.cursor(cursor_factory=base.Cursor)
        return base.Cursor(self.connection)

    _override(monkeypatch, "create_cursor", create_cursor)
    _attack(_by_django)
    _expect_a_kept_cursor_to_be_shut(lambda: connection.cursor())


@pytest.mark.project(pool=ONE, tables=False)
def test_a_class_that_wraps_every_connection_gives_them_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the pool has lent is then within a proxy, which is within another one.
    from django.db import Error, connection, connections

    plain = type(connections["default"]).get_new_connection

    def get_new_connection(self: Any, conn_params: Any) -> Any:
        return ConnectionProxy(plain(self, conn_params))

    _override(monkeypatch, "get_new_connection", get_new_connection)
    _attack()
    with pytest.raises(Error), connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    connection.close()
    assert _state() is not None
    assert connection.pool.get_stats()["connections_num"] == 2


@pytest.mark.project(pool=ONE, tables=False)
def test_sessions_of_a_class_whose_cursors_report_nothing_are_cleaned_each_time() -> None:
    from django.db import connection

    if DRIVER == "psycopg2":
        from psycopg2 import extensions, extras

        class Own(extensions.connection):
            def cursor(self, *args: Any, **kwargs: Any) -> Any:
                kwargs["cursor_factory"] = extras.DictCursor  # and past what watches such classes
                return extensions.connection.cursor(self, *args, **kwargs)

        connection.settings_dict["OPTIONS"]["connection_factory"] = Own
    else:
        import psycopg

        def factory(*args: Any, **kwargs: Any) -> Any:
            return psycopg.Cursor(*args, **kwargs)

        connection.settings_dict["OPTIONS"]["cursor_factory"] = factory
    _attack(_by_django, _by_a_raw_cursor)
    cleaned = _cleanings()
    _state()
    assert len(cleaned) == 1


@pytest.mark.project(pool={**ONE, "release": "transaction"}, tables=False)
def test_release_by_transaction_works_on_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connection

    trace(monkeypatch)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]
        assert connection.connection is None
        cursor.execute("SET shop.tenant = 'a'")
        assert connection.connection is not None  # the session is needed
    connection.close()
    assert _state()[4] == "nobody"


@pytest.mark.project(pool=ONE, tables=False)
def test_health_and_inspection_work_on_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connection

    from dbpool.health import HealthCheck
    from dbpool_django import _inspection

    trace(monkeypatch)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    check = HealthCheck(lambda: {"default": connection.pool})
    assert check.respond("GET", "/healthz/db", "", {}, None)[0] == 200
    assert _inspection.looks_work(connection)
    assert _inspection.measure(connection, 2).ping > 0
