"""`reset="auto"` of a plain pool: a session that its borrower has changed is cleaned, no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.servers import Postgres

STATE = """SELECT concat_ws('|', current_setting('search_path'),
    coalesce(nullif(current_setting('app.user', true), ''), '-'),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
    coalesce(to_regclass('pg_temp.leftover')::text, '-'))"""
Make = Callable[..., ConnectionPool]


@pytest.fixture(params=["psycopg2", "psycopg"])
def make(
    request: pytest.FixtureRequest, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Make pools of one connection; `cleaned(pool)` is how often it was cleaned."""
    pytest.importorskip(request.param)
    made: list[ConnectionPool] = []

    def make(**options: Any) -> ConnectionPool:
        pool = ConnectionPool(
            postgres.dsn(), driver=request.param, max_size=1, reset="auto", **options
        )
        made.append(pool)
        return pool

    yield make
    for pool in made:
        assert pool.get_stats()["connections_num"] <= 1, "cleaned, not replaced"
        inside.audit(pool)
        pool.close()


@pytest.fixture
def cleaned(monkeypatch: pytest.MonkeyPatch) -> Callable[[ConnectionPool], int]:
    """Count how often the session of a pool is cleaned, from the first call on."""
    counts: dict[int, list[object]] = {}

    def count(pool: ConnectionPool) -> int:
        if id(pool) not in counts:
            calls: list[object] = []
            counts[id(pool)] = calls
            discard = pool.driver.discard_session

            def noted(conn: Any) -> None:
                calls.append(conn)
                discard(conn)

            monkeypatch.setattr(pool.driver, "discard_session", noted)
        return len(counts[id(pool)])

    return count


def run(pool: ConnectionPool, *statements: str) -> Any:
    with pool.connection() as conn, conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def test_what_changes_nothing_costs_no_cleaning(
    make: Make, cleaned: Callable[[ConnectionPool], int]
) -> None:
    pool = make()
    cleaned(pool)
    for statement in (
        "SELECT 1",
        "SET LOCAL app.name = 'ada'",
        "SELECT set_config('a.b', 'c', true)",
    ):
        run(pool, statement)
    assert cleaned(pool) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path = pg_catalog",
        "SELECT set_config('app.user', 'ada', false)",
        "SELECT pg_advisory_lock(4711)",
        "CREATE TEMP TABLE leftover (n int)",
    ],
)
def test_what_a_statement_leaves_does_not_reach_the_next_borrower(
    make: Make, cleaned: Callable[[ConnectionPool], int], statement: str
) -> None:
    pool = make()
    before = run(pool, STATE)
    cleaned(pool)
    run(pool, statement)
    assert run(pool, STATE) == before
    assert cleaned(pool) == 1


def test_what_the_server_reports_is_seen_whoever_has_changed_it(
    make: Make, postgres: Postgres, cleaned: Callable[[ConnectionPool], int]
) -> None:
    postgres.sql(
        "CREATE OR REPLACE FUNCTION changes_zone() RETURNS void LANGUAGE sql AS"
        " $$ SELECT set_config('TimeZone', 'Asia/Tokyo', false) $$"
    )
    pool = make()
    before = run(pool, "SHOW TimeZone")
    cleaned(pool)
    run(pool, "SELECT changes_zone()")
    assert run(pool, "SHOW TimeZone") == before
    assert cleaned(pool) == 1


def test_configure_is_called_again_after_a_cleaning(make: Make) -> None:
    def configure(conn: Any) -> None:
        conn.cursor().execute("SET application_name = 'ours'")
        conn.commit()

    pool = make(configure=configure)
    run(pool, "SET application_name = 'theirs'")
    assert run(pool, "SHOW application_name") == "ours"


def test_a_class_of_cursors_that_the_borrower_brings_along_is_watched(
    make: Make, cleaned: Callable[[ConnectionPool], int]
) -> None:
    pool = make()
    if pool.driver.name != "psycopg2":
        pytest.skip("psycopg 3 takes row factories")
    from psycopg2.extras import DictCursor

    cleaned(pool)
    with pool.connection() as conn:
        cursor = conn.cursor(cursor_factory=DictCursor)
        assert isinstance(cursor, DictCursor)
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchone()["one"] == 1
    assert cleaned(pool) == 0
    with pool.connection() as conn:
        conn.cursor(cursor_factory=DictCursor).execute("SET app.name = 'ada'")
    assert cleaned(pool) == 1
    with pool.connection() as conn:
        conn.cursor(cursor_factory=lambda *args, **kwargs: DictCursor(*args, **kwargs))
    assert cleaned(pool) == 2, "of what a function makes nothing is known"


def test_the_users_class_of_cursors_stays_theirs(make: Make) -> None:
    pool = make()
    if pool.driver.name != "psycopg2":
        pytest.skip("psycopg 3 takes row factories")
    from psycopg2.extras import DictCursor

    pool = make(kwargs={"cursor_factory": DictCursor})
    with pool.connection() as conn, conn.cursor() as cursor:
        assert isinstance(cursor, DictCursor)
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchone()["one"] == 1


def test_a_connection_whose_class_goes_its_own_way_is_cleaned_each_time(
    make: Make, cleaned: Callable[[ConnectionPool], int]
) -> None:
    pool = make()
    if pool.driver.name != "psycopg2":
        pytest.skip("psycopg2's connection_factory")
    from psycopg2 import extensions

    class Own(extensions.connection):
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            kwargs["cursor_factory"] = extensions.cursor
            return extensions.connection.cursor(self, *args, **kwargs)

    pool = make(kwargs={"connection_factory": Own})
    run(pool, "SELECT 1")
    cleaned(pool)
    run(pool, "SELECT 1")
    assert cleaned(pool) == 1


def test_a_driver_whose_cursors_tell_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="reset='auto' is not possible with the driver 'sqlite3'"):
        ConnectionPool("sqlite://", reset="auto")
