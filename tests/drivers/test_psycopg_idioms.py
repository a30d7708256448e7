"""What is written for psycopg_pool serves here: `with conn:` on a connection of getconn()."""

from __future__ import annotations

from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.support.callers import MakePool
from tests.support.servers import Postgres

pytest.importorskip("psycopg", reason="psycopg 3 has an environment of its own")


@pytest.fixture
def pool(new_pool: MakePool, postgres: Postgres) -> ConnectionPool:
    return new_pool(postgres.dsn(), driver="psycopg", max_size=1)


def pid(conn: Any) -> int:
    return int(conn.execute("SELECT pg_backend_pid()").fetchone()[0])


def test_a_with_block_of_the_connections_own_commits_and_keeps_it_open(
    pool: ConnectionPool,
) -> None:
    sessions = set()
    for _ in range(3):
        conn = pool.getconn()
        with conn:
            sessions.add(pid(conn))
            conn.execute("CREATE TEMP TABLE IF NOT EXISTS kept (n int)")
            conn.execute("INSERT INTO kept VALUES (1)")
        assert not conn.closed
        assert conn.info.transaction_status == 0
        pool.putconn(conn)
    assert len(sessions) == 1
    with pool.connection() as conn:
        assert conn.execute("SELECT count(*) FROM kept").fetchone() == (3,)
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["returns_bad"]) == (1, 0)


def test_an_error_in_the_block_rolls_back_and_keeps_it_open(pool: ConnectionPool) -> None:
    conn = pool.getconn()
    before = pid(conn)

    def fail() -> None:
        with conn:
            conn.execute("CREATE TEMP TABLE undone (n int)")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not conn.closed
    pool.putconn(conn)
    with pool.connection() as conn:
        assert pid(conn) == before
        assert conn.execute("SELECT to_regclass('undone')").fetchone() == (None,)


def test_close_by_the_borrower_closes_it(pool: ConnectionPool) -> None:
    """psycopg_pool has an option for another meaning, this pool has not."""
    conn = pool.getconn()
    conn.close()
    assert conn.closed
    pool.putconn(conn)
    with pool.connection() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_one_that_is_no_longer_the_pools_is_closed_by_its_block(pool: ConnectionPool) -> None:
    with pool.connection() as conn:
        pass
    pool.close()
    assert conn.closed
