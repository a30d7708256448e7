"""PgBouncer between the pool and the server, in both modes and at its limits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.ecosystem.promises import DRIVER, Database, answers_are_its_own
from tests.ecosystem.tracing import flask_client_of
from tests.support.pgbouncer import PgBouncer, find_pgbouncer

pytestmark = [
    pytest.mark.package(
        to_set="transaction mode: psycopg 3 `prepare_threshold: None`; in Django "
        "`DISABLE_SERVER_SIDE_CURSORS`; `timeout` above PgBouncer's `query_wait_timeout`"
    ),
    pytest.mark.skipif(find_pgbouncer() is None, reason="there is no pgbouncer on this machine"),
]


# psycopg 3 prepares what it has sent five times: in one session of the server, not in the next.
KWARGS = {"prepare_threshold": None} if DRIVER == "psycopg" else {}


def pool_of(pooler: PgBouncer, field: Database, **options: Any) -> ConnectionPool:
    dsn = pooler.dsn(dbname=field.name)
    return ConnectionPool(dsn, driver=DRIVER, kwargs=KWARGS, **options)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_site_behind_it_gets_its_own_answers(field: Database, mode: str) -> None:
    with PgBouncer(field.server, mode, size=6) as pooler:
        ask = flask_client_of(pooler.dsn(dbname=field.name), kwargs=KWARGS)
        answers_are_its_own(ask, 200, 8)
        assert (ask("POST", "/rows/1")[0], field.rows(1)) == (201, 1)
        assert (ask("POST", "/refused/2")[0], field.rows(2)) == (409, 0)


def test_at_max_client_conn_callers_wait_for_what_circulates(field: Database) -> None:
    with PgBouncer(field.server, "transaction", size=6) as pooler:
        with pool_of(pooler, field, max_size=8, timeout=60.0) as pool:
            pooler.admin("SET max_client_conn = 4")  # the console's own connection is one
            done = threading.Semaphore(0)

            def work(n: int) -> int:
                with pool.connection() as conn:
                    cursor = conn.cursor()
                    cursor.execute("SELECT %s::int FROM pg_sleep(0.05)", (n,))
                    done.release()
                    return int(cursor.fetchone()[0])

            with ThreadPoolExecutor(12) as executor:
                assert list(executor.map(work, range(120))) == list(range(120))
            assert pool.state != "down"


def test_a_restart_of_it_costs_no_idle_pool_an_error(field: Database) -> None:
    with PgBouncer(field.server, "session", size=6) as pooler:
        with pool_of(pooler, field, min_size=3, max_size=3, validate_after=0, timeout=30.0) as pool:
            pool.wait(30.0)
            pooler.restart()
            for _ in range(6):
                with pool.connection() as conn:
                    conn.cursor().execute("SELECT 1")
