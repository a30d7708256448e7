"""What a request sets in its session does not reach the next one (`reset="auto"`, the default)."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tests.support import inside
from tests.web_django.project import Project
from tests.web_django.site import Site

_STATE = (
    "SELECT current_setting('search_path') <> 'pg_catalog', "
    "current_setting('statement_timeout'), "
    "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), "
    "to_regclass('pg_temp.leftover')::text, "
    "(SELECT count(*) FROM pg_listening_channels()), "
    "current_setting('shop.tenant', true), current_setting('TimeZone'), current_user"
)
_CLEAN = (True, "0", 0, None, 0)


def _next_request(site: Site) -> tuple[Any, ...]:
    from django.db import connection
    from django.http import HttpResponse

    seen: list[Any] = []

    @site.view("next")
    def next_(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(_STATE)
            seen.extend(cursor.fetchone())
        return HttpResponse("ok")

    assert site.get("next").status == 200
    return tuple(seen)


def _request(site: Site, *statements: Any) -> None:
    from django.db import connection
    from django.http import HttpResponse

    @site.view("leaves")
    def leaves(request: Any) -> Any:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        return HttpResponse("ok")

    assert site.get("leaves").status == 200


@pytest.mark.project(pool={"max_size": 1})
def test_session_state_of_a_request_does_not_reach_the_next(site: Site) -> None:
    from django.db import connection

    _request(
        site,
        "SET search_path TO pg_catalog",
        "SET statement_timeout TO 4321",
        "SELECT pg_advisory_lock(7)",
        "CREATE TEMP TABLE leftover (id int)",
        "LISTEN somebody",
        "SELECT set_config('shop.tenant', 'a', false)",
    )
    *state, tenant, zone, _ = _next_request(site)
    assert (tuple(state), tenant or None, zone) == (_CLEAN, None, "UTC")
    # By cleaning it, not by paying a connect.
    assert connection.pool.get_stats()["connections_num"] == 1
    inside.audit(connection.pool)


_LEAVES = {
    "UPDATE pg_settings SET setting = '4321' WHERE name = 'statement_timeout'": (
        "SELECT current_setting('statement_timeout')"
    ),
    "/* who */ SELECT 1; -- why\nSET statement_timeout = 4321": (
        "SELECT current_setting('statement_timeout')"
    ),
    "WITH x AS (SELECT set_config('lock_timeout', '4321', false)) SELECT * FROM x": (
        "SELECT current_setting('lock_timeout')"
    ),
    "PREPARE plan AS SELECT 1": "SELECT count(*) FROM pg_prepared_statements",
    "DECLARE held CURSOR WITH HOLD FOR SELECT 1": (
        "SELECT count(*) FROM pg_cursors WHERE name = 'held'"
    ),
    "CREATE FUNCTION pg_temp.left() RETURNS int LANGUAGE sql AS 'SELECT 1'": (
        "SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()"
    ),
    "SELECT 1 AS one INTO TEMP leftover": "SELECT to_regclass('pg_temp.leftover')::text",
    "SELECT pg_try_advisory_lock_shared(7)": (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    ),
    "LISTEN somebody": "SELECT count(*) FROM pg_listening_channels()",
    "SET ROLE pg_monitor": "SELECT current_user::text",
    "SET SESSION AUTHORIZATION pg_monitor": "SELECT session_user::text",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": (
        "SELECT current_setting('default_transaction_read_only')"
    ),
}


@pytest.mark.project(pool={"max_size": 1}, tables=False)
def test_nothing_that_a_session_can_keep_reaches_the_next_borrower() -> None:
    from django.db import connection

    def ask(question: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchone()[0]

    for statement, question in _LEAVES.items():
        before = ask(question)
        with connection.cursor() as cursor:
            cursor.execute(statement)
        assert ask(question) != before, statement  # while it is lent it is so
        connection.close()
        assert ask(question) == before, statement
        connection.close()
    assert connection.pool.get_stats()["connections_num"] == 1
    inside.audit(connection.pool)


@pytest.mark.project(
    pool={"max_size": 1, "configure": "tests.web_django.callbacks.set_tenant"}, tables=False
)
def test_a_cleaned_session_has_what_django_and_configure_gave_it(site: Site) -> None:
    from django.db import connection

    connection.settings_dict["OPTIONS"]["assume_role"] = "pg_monitor"
    connection.settings_dict["TIME_ZONE"] = "Asia/Tokyo"
    _request(site, "SET ROLE NONE", "SET shop.tenant = 'b'", "SET TIME ZONE 'UTC'")
    assert _next_request(site)[-3:] == ("configured", "Asia/Tokyo", "pg_monitor")
    assert connection.pool.get_stats()["connections_num"] == 1


@pytest.mark.project(pool={"max_size": 1})
def test_a_change_in_an_open_transaction_is_cleaned_too(site: Site) -> None:
    _request(site, "BEGIN", "SET statement_timeout TO 4321", "SELECT pg_advisory_lock(7)")
    assert _next_request(site)[:5] == _CLEAN


# What the server reports by itself: any function may change it.
_REPORTED = {
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "default_transaction_read_only": "on",
    "standard_conforming_strings": "off",
    "session_authorization": "pg_monitor",
    "role": "pg_monitor",  # which shows in is_superuser
}


@pytest.mark.project(pool={"max_size": 1})
def test_a_change_that_no_statement_shows_is_seen_by_what_the_server_reports(
    site: Site, project: Project
) -> None:
    from django.db import connection

    project.sql(
        f"CREATE FUNCTION {project.schema}.sneaky(text, text) RETURNS text LANGUAGE sql "
        "AS $$ SELECT set_config($1, $2, false) $$"
    )
    for name, value in _REPORTED.items():
        with connection.cursor() as cursor:
            cursor.execute(f"SHOW {name}")
            before = cursor.fetchone()
        _request(site, f"SELECT sneaky('{name}', '{value}')", "SELECT 1")
        with connection.cursor() as cursor:
            cursor.execute(f"SHOW {name}")
            assert cursor.fetchone() == before, name
        connection.close()
    assert connection.pool.get_stats()["connections_num"] == 1


@pytest.mark.project(pool={"max_size": 1}, settings={"DEBUG": True})
def test_the_debug_cursor_notices_as_well(site: Site) -> None:
    _request(site, "SET statement_timeout TO 4321")
    assert _next_request(site)[:5] == _CLEAN


@pytest.mark.project(pool={"max_size": 1})
def test_composed_statements_and_procedures_are_noticed(site: Site) -> None:
    from django.db import connection
    from django.db.backends.postgresql.psycopg_any import sql

    _request(site, sql.SQL("SET {} TO {}").format(sql.Identifier("shop.tenant"), sql.Literal("a")))
    assert not _next_request(site)[5]
    with connection.cursor() as cursor:
        cursor.callproc("set_config", ("shop.tenant", "b", False))
    connection.close()
    assert not _next_request(site)[5]


_HOW = {
    "execute": lambda raw, sql: raw.cursor().execute(sql),
    "executemany": lambda raw, sql: raw.cursor().executemany(sql, [()]),
    "parameters": lambda raw, sql: raw.cursor().execute(sql.replace("4321", "%s"), [4321]),
    "psycopg 3's execute": lambda raw, sql: raw.execute(sql),
    "psycopg 3's stream": lambda raw, sql: list(raw.cursor().stream(sql)),
    "copy": lambda raw, sql: _copy_out(raw.cursor(), f"COPY ({sql}) TO STDOUT"),
}


def _copy_out(cursor: Any, sql: str) -> None:
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(sql, io.StringIO())
    else:
        with cursor.copy(sql) as copy:
            assert list(copy)


@pytest.mark.project(pool={"max_size": 1})
@pytest.mark.parametrize("how", _HOW)
def test_what_the_drivers_own_cursors_do_is_noticed(site: Site, how: str) -> None:
    from django.db import connection

    connection.ensure_connection()
    raw = connection.connection
    if how.startswith("psycopg 3") and not hasattr(raw, "execute"):
        pytest.skip("psycopg2's connections have no such method")
    _HOW[how](raw, "SELECT set_config('statement_timeout', '4321', false)")
    connection.close()
    assert _next_request(site)[:5] == _CLEAN
    assert connection.pool.get_stats()["connections_num"] == 1


@pytest.mark.project(pool={"max_size": 1})
def test_a_procedure_that_the_drivers_own_cursor_calls_is_noticed(site: Site) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.cursor.callproc("set_config", ("statement_timeout", "4321", False))
    connection.close()
    assert _next_request(site)[:5] == _CLEAN


@pytest.mark.project(pool={"max_size": 1})
def test_executemany_and_server_side_cursors_are_noticed(site: Site) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.executemany("SELECT set_config(%s, %s, false)", [("statement_timeout", "4321")])
    connection.close()
    assert _next_request(site)[:5] == _CLEAN
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', '4321', false)")
        cursor.fetchall()
    connection.close()
    assert _next_request(site)[:5] == _CLEAN


@pytest.mark.filterwarnings("ignore:.*was deleted while still open")  # psycopg 3 tells its users
@pytest.mark.project(pool={"max_size": 1})
def test_a_server_side_cursor_dropped_unclosed_is_not_left_to_the_next_request() -> None:
    import gc

    from django.db import connection

    cursor = connection.chunked_cursor()
    cursor.execute("SELECT generate_series(1, 10)")  # in autocommit: it is WITH HOLD
    assert cursor.fetchone() == (1,)
    del cursor
    gc.collect()
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_cursors WHERE name LIKE '_django%'")
        assert cursor.fetchone() == (0,)
    connection.close()
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1})
def test_cursors_that_are_closed_cost_no_cleaning() -> None:
    from django.db import connection

    from tests.web_django.shelf.models import Book

    Book.objects.bulk_create(Book(title=str(number)) for number in range(5))
    opener = connection._dbpool_supplier().opener
    cleaned: list[Any] = []
    opener.discard_session = cleaned.append
    assert len(list(Book.objects.iterator(2))) == 5
    some = Book.objects.iterator(2)
    next(some)
    del some
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT 1")
    open_ = connection.chunked_cursor()
    open_.execute("SELECT 1")  # still in somebody's hands: closed at the return
    connection.connection.cursor().execute("SET LOCAL statement_timeout = 4321")
    connection.close()
    assert cleaned == []
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1})
def test_a_cursor_factory_of_the_projects_own_notices_as_well(site: Site) -> None:
    from django.db import connection
    from django.db.backends.postgresql.base import Cursor

    class Own(Cursor):  # type: ignore[misc, valid-type]
        pass

    connection.settings_dict["OPTIONS"]["cursor_factory"] = Own
    with connection.cursor() as cursor:
        assert isinstance(cursor.cursor, Own)
    connection.connection.cursor().execute("SET statement_timeout = 4321")
    connection.close()
    assert _next_request(site)[:5] == _CLEAN


@pytest.mark.project(pool={"max_size": 1, "reset": "rollback"})
def test_rollback_leaves_the_session_to_its_users(site: Site) -> None:
    _request(site, "SET statement_timeout TO 4321")
    assert _next_request(site)[1] == "4321ms"


@pytest.mark.project(pool={"max_size": 1})
def test_a_session_that_cannot_be_cleaned_is_replaced(site: Site) -> None:
    from django.db import connection

    def refuse(conn: Any) -> None:
        raise ZeroDivisionError

    _request(site, "SELECT 1")
    connection._dbpool_supplier().opener.discard_session = refuse
    _request(site, "SET statement_timeout TO 4321")
    assert connection.pool.get_stats()["pool_size"] == 0
    assert _next_request(site)[:5] == _CLEAN
