"""Where connect() returns a tracer's proxy (Datadog, Elastic), all is as without (`wrapt`)."""

from __future__ import annotations

import io
from typing import Any

import pytest

from dbpool_flask import ConnectionReleased
from tests.support.proxies import ConnectionProxy, ThinProxy, trace
from tests.web_flask.conftest import DRIVER, MakeSite, Site
from tests.web_flask.test_session_state import CLEAN, connects, request, run, settings, state

PROXIES = {
    "a proxy": (1, ConnectionProxy),
    "a proxy of a proxy": (2, ConnectionProxy),
    "a thin proxy": (1, ThinProxy),
}


@pytest.fixture(params=PROXIES)
def one(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, make_site: MakeSite
) -> Site:
    """A site with one connection, which is a proxy."""
    trace(monkeypatch, *PROXIES[request.param])
    return make_site(DBPOOL_OPTIONS={"max_size": 1})


LEAVING = (
    "SET search_path TO pg_catalog",
    "SET statement_timeout TO 4321",
    "SELECT pg_advisory_lock(7)",
    "CREATE TEMP TABLE leftover (id int)",
    "LISTEN somebody",
    "SELECT set_config('shop.tenant', 'a', false)",
    "SET ROLE pg_monitor",
)


def by_the_cursors_connection(cursor: Any, statement: str) -> None:
    cursor.connection.cursor().execute(statement)


def by_what_execute_returns(cursor: Any, statement: str) -> None:
    (cursor.execute("SELECT 1") or cursor).execute(statement)


def on_the_connection(cursor: Any, statement: str) -> None:
    connection = cursor.connection
    if hasattr(connection, "execute"):  # psycopg 3
        connection.execute(statement).execute("SELECT 1")
    else:
        cursor.execute(statement)


def by_other_methods(cursor: Any, statement: str) -> None:
    if not statement.startswith("SELECT"):
        cursor.execute(statement)
    elif hasattr(cursor, "copy_expert"):  # psycopg2
        cursor.callproc("pg_advisory_lock", (7,))
        cursor.copy_expert(f"COPY ({statement}) TO STDOUT", io.StringIO())
    else:
        cursor.executemany("SELECT pg_advisory_lock(%s)", [(7,)])
        with cursor.copy(f"COPY ({statement}) TO STDOUT") as copy:
            assert list(copy)


WAYS = {
    "other methods": by_other_methods,
    "cursor": lambda cursor, statement: cursor.execute(statement),
    "the cursor's connection": by_the_cursors_connection,
    "what execute returns": by_what_execute_returns,
    "on the connection": on_the_connection,
    "raw": lambda cursor, statement: cursor.connection.raw.cursor().execute(statement),
}


def test_the_pool_lends_proxies_here(one: Site) -> None:
    with one.app.app_context():
        assert type(one.db.connection.raw) in (ConnectionProxy, ThinProxy)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_a_request_sets_reaches_the_next(one: Site, way: str) -> None:
    for statement in LEAVING:  # each by itself: one that is seen has all of them cleaned

        def view(statement: str = statement) -> Any:
            with one.db.connection.cursor() as cursor:
                WAYS[way](cursor, statement)  # type: ignore[no-untyped-call]
            return "ok"

        request(one, view)
        assert state(one) == CLEAN, statement
        assert settings(one, "role") == ["none"]
    assert connects(one) == 1  # by cleaning it


def test_what_a_function_sets_is_seen_by_what_the_server_reports(one: Site) -> None:
    run(
        one,
        "CREATE FUNCTION slow_style() RETURNS text LANGUAGE sql"
        " AS $$ SELECT set_config('DateStyle', 'German', false) $$",
    )
    try:
        run(one, "SELECT slow_style()")
        with one.app.app_context(), one.db.connection.cursor() as cursor:
            cursor.execute("SHOW DateStyle")
            assert not cursor.fetchone()[0].startswith("German")
    finally:
        run(one, "DROP FUNCTION slow_style()")


def test_ordinary_requests_commit_and_cost_no_cleaning(
    one: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[Any] = []
    monkeypatch.setattr(one.pool.driver, "discard_session", cleaned.append)

    def view() -> Any:
        one.write("a note")
        return "ok"

    request(one, view)
    assert one.database.notes() == ["a note"]
    assert cleaned == []


@pytest.mark.parametrize("how", ["kept", "what execute returns", "made on the connection"])
def test_a_cursor_kept_past_its_request_reaches_nobody(one: Site, how: str) -> None:
    kept: list[Any] = []

    def view() -> Any:
        cursor = one.db.connection.cursor()
        result = cursor.execute("SELECT 1")
        if how == "what execute returns":
            cursor = result if result is not None else cursor
        elif how == "made on the connection" and DRIVER == "psycopg":
            cursor = one.db.connection.execute("SELECT 1")
        kept.append(cursor)
        return "ok"

    request(one, view)
    with one.app.app_context():
        one.db.connection.cursor().execute("SELECT 'another one''s'")
        with pytest.raises(ConnectionReleased):
            kept[0].fetchall()


def test_test_isolation_works_on_proxies(one: Site) -> None:
    with one.db.test_isolation(one.app):
        run(one, "SET statement_timeout TO 4321", "INSERT INTO note (text) VALUES ('undone')")
    assert state(one) == CLEAN
    assert one.database.notes() == []


@pytest.mark.parametrize("mark", ["read_only", "autocommit", "atomic"])
def test_views_with_marks_work_on_proxies(one: Site, mark: str) -> None:
    def view() -> Any:
        with one.db.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
        return "ok"

    request(one, getattr(one.db, mark)(view))


def test_health_passes_on_proxies(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    trace(monkeypatch)
    site = make_site()
    run(site, "SELECT 1")
    assert site.client().get("/healthz/db").status_code == 200


def test_sqlite_works_on_proxies(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    trace(monkeypatch)
    site = make_site(DBPOOL_URL="sqlite://", DBPOOL_OPTIONS={"driver": None})

    @site.app.get("/")
    def view() -> Any:
        with site.db.transaction():
            site.db.connection.execute("CREATE TABLE t (id)")
            site.db.connection.execute("INSERT INTO t VALUES (1)")
        return str(site.db.connection.execute("SELECT id FROM t").fetchall())

    assert site.client().get("/").text == "[(1,)]"
