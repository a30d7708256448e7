"""What the end of a block says of what it wrote, when its connection does not live any more.

Whoever is told that nothing was committed writes it again: so no block is told so whose rows may be
there. And whose session an error speaks of.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dbpool import CommitUnknown, ConnectionPool, PoolError, TransactionAborted
from tests.drivers.conftest import needs_psycopg, run
from tests.support.callers import MakePool, expect_full_capacity, settled
from tests.support.servers import Postgres
from tests.support.sessions import one, run_sql, terminate

both = pytest.mark.parametrize("driver", ["psycopg2", pytest.param("psycopg", marks=needs_psycopg)])
pytestmark = both


@pytest.fixture
def pg_pool(driver: str, new_pool: MakePool, postgres: Postgres) -> MakePool:
    run_sql(postgres, "DROP TABLE IF EXISTS block_ends")
    run_sql(postgres, "CREATE TABLE block_ends (i int)")

    def make(**options: Any) -> ConnectionPool:
        return new_pool(postgres.dsn(), driver=driver, **{"max_size": 1, **options})

    return make


def insert(conn: Any) -> None:
    run(conn, "INSERT INTO block_ends VALUES (1)")


def rows(server: Postgres) -> int:
    return int(run_sql(server, "SELECT count(*) FROM block_ends")[0][0])


def lose(pool: ConnectionPool, conn: Any) -> None:
    """Lose the link in the midst of a statement, and take no notice of the error."""
    with pytest.raises(pool.driver.OperationalError.__mro__[1]):
        run(conn, "SELECT pg_terminate_backend(pg_backend_pid())")


def ends_with(pool: ConnectionPool, *steps: Callable[[Any], object]) -> PoolError | None:
    """Return what the end of a block says that does this."""
    try:
        with pool.connection() as conn:
            for step in steps:
                step(conn)
    except PoolError as error:
        return error
    return None


def autocommit(conn: Any) -> None:
    conn.autocommit = True


def commit(conn: Any) -> None:
    conn.commit()


def close(conn: Any) -> None:
    conn.close()


# Closed by its borrower


@pytest.mark.parametrize(
    "steps",
    [
        (insert, commit, close),
        (autocommit, insert, close),
        (autocommit, lambda conn: run(conn, "BEGIN"), insert, lambda c: run(c, "COMMIT"), close),
        (insert, lambda conn: run(conn, "COMMIT"), close),
        (insert, commit, close, close),
    ],
)
def test_a_connection_closed_after_its_commit_is_no_error(
    steps: tuple[Callable[[Any], object], ...], pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool()
    assert ends_with(pool, *steps) is None
    assert rows(postgres) == 1
    expect_full_capacity(pool)


def test_that_goes_for_a_pool_whose_connections_return_by_close_too(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(close_returns=True)
    for _ in range(2):  # new, and lent before
        pool.getconn().close()
        assert ends_with(pool, insert, commit, close) is None
        assert isinstance(ends_with(pool, insert, close), TransactionAborted)
    assert rows(postgres) == 2
    expect_full_capacity(pool)


def test_the_drivers_own_block_inside_is_no_error_and_writes_once(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    """That of psycopg 3 commits, and may close."""
    pool = pg_pool()

    def own_block(conn: Any) -> None:
        with conn:
            insert(conn)

    assert ends_with(pool, own_block) is None
    assert rows(postgres) == 1
    expect_full_capacity(pool)


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ((insert, close), 0),
        ((insert, commit, insert, close), 1),
        ((autocommit, insert, lambda conn: run(conn, "BEGIN"), insert, close), 1),
    ],
)
def test_a_connection_closed_in_a_transaction_says_what_is_undone(
    steps: tuple[Callable[[Any], object], ...], kept: int, pg_pool: MakePool, postgres: Postgres
) -> None:
    error = ends_with(pg_pool(), *steps)
    assert isinstance(error, TransactionAborted)
    assert "closed inside its block" in str(error)
    assert "not committed by then is rolled back" in str(error)
    assert "nothing" not in str(error)
    assert rows(postgres) == kept


def test_one_that_its_borrower_closed_says_nothing_of_the_others(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=2, min_size=2)
    pool.wait()
    assert ends_with(pool, insert, commit, close) is None

    def fail() -> None:
        with pool.connection() as conn:
            conn.close()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    settled(pool)
    assert pool.get_stats()["connections_lost"] == 0
    assert rows(postgres) == 1


# The link is lost


@pytest.mark.parametrize(
    ("steps", "kept"), [((autocommit, insert), 1), ((autocommit, insert, insert), 2)]
)
def test_a_link_lost_in_autocommit_mode_is_told_as_unknown(
    steps: tuple[Callable[[Any], object], ...], kept: int, pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool()
    error = ends_with(pool, *steps, lambda conn: lose(pool, conn))
    assert isinstance(error, CommitUnknown)
    assert "what came before the last one stays" in str(error)
    assert "before writing it again" in str(error)
    assert rows(postgres) == kept
    expect_full_capacity(pool)


def test_a_link_lost_after_a_commit_of_its_own_does_not_invite_to_write_again(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool()
    error = ends_with(pool, insert, commit, insert, lambda conn: lose(pool, conn))
    assert isinstance(error, TransactionAborted)
    assert "lost before the commit" in str(error)
    assert "what was, stays" in str(error)
    assert "before writing it again" in str(error)
    assert "nothing" not in str(error)
    assert rows(postgres) == 1


def test_a_commit_of_its_own_that_met_with_the_loss_does_not_invite_to_write_again(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    """The server may have committed: the block alone has seen the error."""
    pool = pg_pool()

    def try_to_commit(conn: Any) -> None:
        terminate(postgres, int(conn.info.backend_pid))
        with pytest.raises(pool.driver.OperationalError.__mro__[1]):
            conn.commit()

    error = ends_with(pool, insert, try_to_commit)
    assert error is not None
    assert "nothing" not in str(error)
    assert "before writing it again" in str(error)


def test_one_that_was_lost_and_then_closed_is_told_as_lost(pg_pool: MakePool) -> None:
    pool = pg_pool()
    error = ends_with(pool, insert, lambda conn: lose(pool, conn), close)
    assert error is not None
    assert "what was, stays" in str(error) or "not committed by then" in str(error)
    assert "nothing" not in str(error)


# Whose session it was that ended


@pytest.fixture
def two_pools(pg_pool: MakePool) -> Iterator[tuple[ConnectionPool, ConnectionPool]]:
    return pg_pool(name="primary", max_size=2, min_size=2), pg_pool(name="replica")


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_of_another_pools_session_costs_this_pool_nothing(
    begun: bool, two_pools: tuple[ConnectionPool, ConnectionPool], postgres: Postgres
) -> None:
    primary, replica = two_pools
    primary.wait()
    pids: list[int] = []

    def fail() -> None:
        with primary.connection() as conn:
            if begun:
                insert(conn)
            pids.append(int(conn.info.backend_pid))
            with replica.connection() as other:
                run(other, "SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(primary.driver.OperationalError.__mro__[1]):
        fail()
    assert rows(postgres) == 0
    settled(primary)
    assert primary.get_stats()["connections_num"] == 2
    assert primary.get_stats()["returns_bad"] == 0
    with primary.connection() as conn:
        assert [int(conn.info.backend_pid)] == pids
    assert replica.get_stats()["connections_closed"]


@pytest.mark.parametrize("sqlstate", ["57P01", "08006", "08001", "25P03"])
def test_an_error_that_only_speaks_of_a_session_is_asked_of_this_one(
    sqlstate: str, pg_pool: MakePool
) -> None:
    """`dblink` says 08001 of a session that the server itself could not open."""
    pool = pg_pool()
    said = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$"
    with pytest.raises(pool.driver.OperationalError.__mro__[2]), pool.connection() as conn:
        run(conn, said)
    with pool.connection() as again:
        assert again is conn
    assert pool.get_stats()["connections_num"] == 1


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_of_its_own_session_still_ends_it_and_has_the_others_asked(
    begun: bool, pg_pool: MakePool
) -> None:
    pool = pg_pool()
    pids: list[int] = []

    def fail() -> None:
        with pool.connection() as conn:
            autocommit(conn)
            run(conn, "BEGIN" if begun else "SELECT 1")
            pids.append(int(conn.info.backend_pid))
            run(conn, "SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(pool.driver.OperationalError.__mro__[1]):
        fail()
    with pool.connection() as conn:
        assert one(conn, "SELECT 1") == 1
        assert [int(conn.info.backend_pid)] != pids
    expect_full_capacity(pool)


def test_a_sqlite_connection_closed_inside_its_block_is_told_apart_too(
    driver: str, new_pool: MakePool, tmp_path: Path
) -> None:
    pool = new_pool(f"sqlite:///{tmp_path / 'file.db'}", max_size=1)
    with pool.connection() as conn:
        run(conn, "CREATE TABLE block_ends (i int)")
    assert ends_with(pool, insert, commit, close) is None
    error = ends_with(pool, insert, close)
    assert isinstance(error, TransactionAborted)
    assert "closed inside its block" in str(error)
    with closing(sqlite3.connect(tmp_path / "file.db")) as looking:
        assert looking.execute("SELECT count(*) FROM block_ends").fetchone() == (1,)
    expect_full_capacity(pool)
