"""What a request sets in its session does not reach the next one (`reset="auto"`, the default)."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Response, stream_with_context

from dbpool_flask import DBPool
from tests.support import inside
from tests.support.waiting import wait_until
from tests.web_flask.conftest import DRIVER, Database, MakeSite, Site, pg

sql: Any = importlib.import_module(f"{DRIVER}.sql")

STATE = """
    SELECT current_setting('search_path') <> 'pg_catalog', current_setting('statement_timeout'),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        to_regclass('pg_temp.leftover')::text, (SELECT count(*) FROM pg_listening_channels()),
        coalesce(current_setting('shop.tenant', true), '')
"""
CLEAN = (True, "0", 0, None, 0, "")


@pytest.fixture
def one(make_site: MakeSite) -> Site:
    """A site with one connection, so that each request gets that of the one before."""
    return make_site(DBPOOL_OPTIONS={"max_size": 1})


def state(site: Site) -> tuple[Any, ...]:
    with site.app.app_context(), site.db.connection.cursor() as cursor:
        cursor.execute(STATE)
        return cursor.fetchone()  # type: ignore[no-any-return]


def run(site: Site, *statements: Any) -> None:
    """Run statements in a request that is committed."""

    def view() -> Any:
        with site.db.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        return "ok"

    request(site, view)


def request(site: Site, view: Callable[[], Any]) -> None:
    path = f"/{len(site.app.view_functions)}"
    site.app._got_first_request = False
    site.app.add_url_rule(path, path, view, methods=["POST"])
    assert site.client().post(path).status_code == 200


def connects(site: Site) -> int:
    return site.pool.get_stats()["connections_num"]


def test_session_state_of_a_request_does_not_reach_the_next(one: Site) -> None:
    run(
        one,
        "SET search_path TO pg_catalog",
        "SET statement_timeout TO 4321",
        "SELECT pg_advisory_lock(7)",
        "CREATE TEMP TABLE leftover (id int)",
        "LISTEN somebody",
        "SELECT set_config('shop.tenant', 'a', false)",
    )
    assert state(one) == CLEAN
    assert connects(one) == 1  # by cleaning it, not by paying a connect


def by_execute_values(cursor: Any) -> None:
    from psycopg2.extras import execute_values

    execute_values(cursor, "SET statement_timeout TO 4321; VALUES %s", [(1,)])


def by_copy(cursor: Any) -> None:
    # That the server refuses two statements in one copy() is nothing to rely on.
    with pytest.raises(pg.Error):
        with cursor.copy("SELECT set_config('statement_timeout', '4321', false)"):
            pass
    cursor.connection.rollback()
    for _ in cursor.stream("SELECT set_config('statement_timeout', '4321', false)"):
        pass


def on_the_connection(cursor: Any) -> None:
    cursor.connection.execute("SET statement_timeout TO 4321")


CHANGES = {
    "bytes": lambda c: c.execute(b"SET statement_timeout TO 4321"),
    "keyword": lambda c: c.execute(query="SET statement_timeout TO 4321"),
    "composed": lambda c: c.execute(
        sql.SQL("SET {} TO {}").format(sql.Identifier("statement_timeout"), sql.Literal(4321))
    ),
    "executemany": lambda c: c.executemany(
        "SELECT set_config('statement_timeout', %s, false)", [("4321",)]
    ),
    "callproc": lambda c: c.callproc("set_config", ("statement_timeout", "4321", False)),
    "copy_expert": lambda c: c.copy_expert(
        "SET statement_timeout TO 4321; COPY note FROM STDIN", io.StringIO()
    ),
    "execute_values": by_execute_values,
    "stream": by_copy,
    "on the connection": on_the_connection,
    "raw cursor": lambda c: c.raw.execute("SET statement_timeout TO 4321"),
    "raw connection": lambda c: c.connection.raw.cursor().execute("SET statement_timeout TO 4321"),
}
OF_PSYCOPG2 = {"callproc", "copy_expert", "execute_values"}
OF_PSYCOPG = {"stream", "on the connection"}
HERE = set(CHANGES) - (OF_PSYCOPG if DRIVER == "psycopg2" else OF_PSYCOPG2)


@pytest.mark.parametrize("way", sorted(HERE))
def test_a_change_is_noticed_whichever_way_it_is_made(one: Site, way: str) -> None:
    def view() -> Any:
        with one.db.connection.cursor() as cursor:
            CHANGES[way](cursor)  # type: ignore[no-untyped-call]
        return "ok"

    request(one, view)
    assert state(one) == CLEAN
    assert connects(one) == 1


# What the server reports by itself: any function may change it.
REPORTED = {
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "client_encoding": "LATIN1",
    "application_name": "somebody",
    "default_transaction_read_only": "on",
    "standard_conforming_strings": "off",
    "session_authorization": "pg_monitor",
    "role": "pg_monitor",  # which shows in is_superuser
}


@pytest.fixture
def sneaky(database: Database) -> Iterator[None]:
    """A function that changes the session, with nothing in its name to tell."""
    database.execute(
        "CREATE FUNCTION sneaky(text, text) RETURNS text LANGUAGE sql"
        " AS $$ SELECT set_config($1, $2, false) $$;"
        "CREATE PROCEDURE sneak(text, text) LANGUAGE sql"
        " AS $$ SELECT set_config($1, $2, false) $$"
    )
    yield
    database.execute("DROP FUNCTION sneaky; DROP PROCEDURE sneak")


def settings(site: Site, *names: str) -> list[Any]:
    with site.app.app_context(), site.db.connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(f"current_setting('{n}', true)" for n in names))
        return list(cursor.fetchone())


@pytest.mark.usefixtures("sneaky")
def test_a_change_that_no_statement_shows_is_seen_by_what_the_server_reports(one: Site) -> None:
    before = settings(one, *REPORTED)
    for name, value in REPORTED.items():
        run(one, f"SELECT sneaky('{name}', '{value}')")
        assert settings(one, *REPORTED) == before, name
    assert connects(one) == 1


@pytest.mark.usefixtures("sneaky")
def test_a_procedure_counts_as_a_change_whatever_it_does(one: Site) -> None:
    run(one, "CALL sneak('shop.tenant', 'a')")
    assert settings(one, "shop.tenant")[0] in (None, "")
    assert connects(one) == 1


@pytest.mark.parametrize(
    "statement", ["SELECT setseed(0.5)", "LOAD 'auto_explain'", "SELECT dblink_connect('x', %s)"]
)
def test_a_session_that_nothing_cleans_is_ended(
    one: Site, database: Database, statement: str
) -> None:
    if "dblink" in statement:
        database.execute("CREATE EXTENSION IF NOT EXISTS dblink")
    link = f"{database.dsn} application_name=dbpool_link"
    with one.app.app_context(), one.db.connection.cursor() as cursor:
        cursor.execute(statement, [link] if "%s" in statement else None)
        pid = one.db.connection.info.backend_pid
        assert len(database.sessions()) == 1 + ("dblink" in statement)
    with one.app.app_context():
        assert one.db.connection.info.backend_pid != pid
    wait_until(lambda: len(database.sessions()) == 1, message="the link is closed")
    assert connects(one) == 2


def test_a_cleaned_session_has_what_configure_gave_it(make_site: MakeSite) -> None:
    def configure(conn: Any) -> None:
        conn.cursor().execute("SET shop.tenant = 'configured'")
        conn.commit()

    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "configure": configure})
    run(site, "SET shop.tenant = 'somebody'", "SET statement_timeout TO 4321")
    assert state(site) == (*CLEAN[:-1], "configured")
    assert connects(site) == 1


def test_ordinary_requests_cost_no_cleaning(one: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []
    discard = one.pool.driver.discard_session
    monkeypatch.setattr(
        one.pool.driver, "discard_session", lambda conn: cleaned.append(1) or discard(conn)
    )
    run(one, "SELECT 1", "SET LOCAL statement_timeout TO 4321")
    run(one, "SELECT set_config('shop.tenant', 'a', true)")  # row-level security, as the docs say
    with one.app.app_context(), one.db.transaction():
        one.write("block")
        with one.db.transaction():
            one.write("savepoint")
    assert cleaned == []
    run(one, "SET statement_timeout TO 4321")
    assert cleaned == [1]


@pytest.mark.parametrize("way", ["409", "stream", "autocommit", "app context"])
def test_a_change_is_cleaned_whatever_becomes_of_its_transaction(one: Site, way: str) -> None:
    def change() -> None:
        with one.db.connection.cursor() as cursor:
            cursor.execute("SET statement_timeout TO 4321")
            cursor.execute("SELECT pg_advisory_lock(7)")

    @one.app.post("/409")
    def refused() -> Any:
        change()
        return "no", 409

    @one.app.post("/stream")
    def stream() -> Any:
        def rows() -> Iterator[str]:
            change()
            yield "row"

        return Response(stream_with_context(rows()))

    @one.app.post("/autocommit")
    @one.db.autocommit
    def autocommit() -> Any:
        change()
        return "ok"

    if way == "app context":
        with one.app.app_context():
            change()
    else:
        assert one.client().post(f"/{way}").data
    assert state(one) == CLEAN
    assert connects(one) == 1


def test_a_session_that_cannot_be_cleaned_is_replaced(
    one: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(conn: Any) -> None:
        raise ZeroDivisionError

    run(one, "SELECT 1")
    monkeypatch.setattr(one.pool.driver, "discard_session", refuse)
    run(one, "SET statement_timeout TO 4321")
    assert one.pool.get_stats()["pool_size"] == 0
    assert "reset failed with ZeroDivisionError; the connection is replaced" in caplog.text
    assert state(one) == CLEAN


def test_rollback_leaves_the_session_to_its_users(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "reset": "rollback"})
    run(site, "SET statement_timeout TO 4321")
    assert state(site)[1] == "4321ms"


def test_each_database_has_its_own_way(make_site: MakeSite, database: Database) -> None:
    site = make_site(
        DBPOOL_DATABASES={
            "default": {"url": database.url, "reset": "rollback"},
            "other": {"url": database.url, "reset": "auto"},
        },
        DBPOOL_OPTIONS={"max_size": 1},
    )
    for _ in range(2):
        seen = []
        with site.app.app_context():
            for name in ("default", "other"):
                cursor = site.db.get_connection(name).cursor()
                cursor.execute("SHOW statement_timeout")
                seen += cursor.fetchone()
                cursor.execute("SET statement_timeout TO 4321")
            site.db.commit()
    assert seen == ["4321ms", "0"]


def test_isolation_leaves_no_session_state_behind_that_its_rollback_does_not_undo(
    one: Site,
) -> None:
    with one.db.test_isolation(one.app):
        run(one, "SELECT pg_advisory_lock(7)", "SET statement_timeout TO 4321")
    assert state(one) == CLEAN
    assert connects(one) == 1


def test_a_statement_that_is_none_is_the_drivers_error(one: Site) -> None:
    with one.app.app_context(), one.db.connection.cursor() as cursor:
        with pytest.raises(TypeError):
            cursor.execute()
        with pytest.raises((TypeError, pg.Error)):
            cursor.execute(object())


def test_a_wrong_word_is_refused_with_those_that_are_possible(database: Database) -> None:
    from flask import Flask

    app = Flask("wrong")
    app.config.update(DBPOOL_URL=database.url, DBPOOL_OPTIONS={"reset": "auot"})
    with pytest.raises(ValueError, match=r"reset='auot' is not possible: it takes .*auto"):
        DBPool(app)


def test_sessions_that_began_differently_are_each_compared_with_their_own_beginning(
    site: Site,
) -> None:
    watch = inside.SessionWatch()
    zones = ("UTC", "UTC", "Asia/Tokyo")
    connections = [pg.connect(site.database.dsn, options=f"-c TimeZone={zone}") for zone in zones]
    try:
        for conn in connections:
            watch.configure(conn)
        assert [watch.changed(conn) for conn in connections] == [False, False, False]
        for conn, zone in zip(connections, ("UTC", "Asia/Tokyo", "UTC"), strict=True):
            conn.cursor().execute(f"SET TimeZone TO '{zone}'")
        assert [watch.changed(conn) for conn in connections] == [False, True, True]
    finally:
        for conn in connections:
            conn.close()
