"""What is psycopg 3's own: pipelines, COPY, prepared statements, handlers, its lock."""

from __future__ import annotations

import gc
import os
import socket
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from dbpool import ConnectionPool, Misconfigured
from tests.drivers.conftest import needs_psycopg, run
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
)
from tests.support.servers import Postgres
from tests.support.sessions import last_query, one
from tests.support.waiting import wait_until

pytestmark = needs_psycopg


@pytest.fixture
def pg_pool(new_pool: MakePool, postgres: Postgres) -> MakePool:
    def make(**options: Any) -> ConnectionPool:
        return new_pool(postgres.dsn(), driver="psycopg", **{"max_size": 1, **options})

    return make


# Each leaves a connection in the middle of something, and returns what must be kept alive.


def pipeline(conn: Any) -> Any:
    mode = conn.pipeline()
    return mode, mode.__enter__()


def pipeline_with_a_query(conn: Any) -> Any:
    kept = pipeline(conn)
    conn.execute("SELECT 'theirs'")
    return kept


def aborted_pipeline(conn: Any) -> Any:
    kept = pipeline(conn)
    conn.execute("SELECT 1/0")
    with pytest.raises(Exception, match="division by zero"):
        kept[1].sync()
    return kept


def copy_out(conn: Any) -> Any:
    copy = conn.cursor().copy("COPY (SELECT generate_series(1, 100000)) TO STDOUT")
    copy.__enter__().read()
    return copy


def copy_in(conn: Any) -> Any:
    conn.execute("CREATE TEMP TABLE mine (i int)")
    copy = conn.cursor().copy("COPY mine FROM STDIN")
    copy.__enter__().write("1\n")
    return copy


def stream(conn: Any) -> Any:
    rows = conn.cursor().stream("SELECT generate_series(1, 100000)")
    next(rows)
    return rows


def notifies(conn: Any) -> Any:
    conn.execute("LISTEN news")
    conn.execute("NOTIFY news, 'theirs'")
    conn.commit()
    found = conn.notifies(timeout=PATIENCE)
    next(found)
    return found


def notifies_in_a_transaction(conn: Any) -> Any:
    conn.execute("LISTEN news")
    conn.execute("NOTIFY news, 'theirs'")
    conn.commit()
    conn.execute("SELECT 1")
    found = conn.notifies(timeout=PATIENCE)
    next(found)  # heard before
    return found


def transaction(conn: Any) -> Any:
    block = conn.transaction()
    block.__enter__()
    return block


def transaction_ended_by_sql(conn: Any) -> Any:
    block = transaction(conn)
    conn.execute("ROLLBACK")
    return block


MIDDLES = [
    pipeline,
    pipeline_with_a_query,
    aborted_pipeline,
    copy_out,
    copy_in,
    stream,
    notifies,
    notifies_in_a_transaction,
    transaction,
    transaction_ended_by_sql,
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("leave", MIDDLES)
def test_a_connection_in_the_middle_of_something_is_replaced(
    leave: Callable[[Any], Any], autocommit: bool, pg_pool: MakePool
) -> None:
    pool = pg_pool()

    def borrow() -> Any:
        conn = pool.getconn()
        conn.autocommit = autocommit
        kept = leave(conn)
        pool.putconn(conn)
        return conn, kept

    conn, kept = in_thread(borrow).result(PATIENCE)
    with pool.connection() as other:
        assert other is not conn
        assert one(other, "SELECT 'mine'") == "mine"
    assert pool.get_stats()["returns_bad"] == 1
    expect_full_capacity(pool)
    del kept


@pytest.mark.parametrize("leave", [notifies, notifies_in_a_transaction, stream])
def test_a_block_that_ends_in_the_middle_raises_instead_of_waiting_for_itself(
    leave: Callable[[Any], Any], pg_pool: MakePool
) -> None:
    pool = pg_pool()
    kept: list[Any] = []

    def work() -> None:
        with pool.connection() as conn:
            kept.append(leave(conn))

    with pytest.raises(pool.driver.OperationalError, match="still in use"):
        in_thread(work).result(PATIENCE)
    expect_full_capacity(pool)


def test_closing_beneath_a_query_of_another_thread_cuts_the_link(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    """Or that thread might go on waiting, on the descriptor's next owner."""
    pool = pg_pool()
    conn = pool.getconn()
    query = in_thread(run, conn, "SELECT pg_sleep(600)")
    wait_until(lambda: "pg_sleep" in last_query(postgres, conn.info.backend_pid), PATIENCE)
    with socket.socket(fileno=os.dup(conn.fileno())) as link:
        pool.putconn(conn)
        link.settimeout(PATIENCE)
        assert link.recv(1) == b""
    with pytest.raises(pool.driver.OperationalError):
        query.result(PATIENCE)


def test_a_pipeline_that_has_ended_costs_nothing(pg_pool: MakePool) -> None:
    pool = pg_pool()
    for _ in range(3):
        with pool.connection() as conn, conn.pipeline():
            conn.execute("SELECT 1")
    assert pool.get_stats()["connections_num"] == 1


# Prepared statements


PREPARED = "SELECT count(*) FROM pg_prepared_statements"


def ask_often(conn: Any) -> list[str]:
    return [conn.execute("SELECT %s::text", [f"answer {i}"]).fetchone()[0] for i in range(8)]


def test_prepared_statements_survive_the_return(pg_pool: MakePool) -> None:
    pool = pg_pool()
    for _ in range(3):
        with pool.connection() as conn:
            assert ask_often(conn) == [f"answer {i}" for i in range(8)]
    with pool.connection() as conn:
        assert run(conn, PREPARED) == [(1,)]


def test_prepared_statements_are_forgotten_by_reset_discard(pg_pool: MakePool) -> None:
    pool = pg_pool(reset="discard")
    for _ in range(3):  # nothing to forget: psycopg does not look at the answer
        with pool.connection() as conn:
            pass
    for _ in range(3):
        with pool.connection() as conn:
            assert run(conn, PREPARED) == [(0,)]
            assert ask_often(conn) == [f"answer {i}" for i in range(8)]
            assert run(conn, PREPARED) == [(1,)]
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["returns_bad"]) == (1, 0)


def test_what_a_borrower_has_heard_is_forgotten_by_reset_discard(pg_pool: MakePool) -> None:
    pool = pg_pool(reset="discard")
    with pool.connection() as conn:
        run(conn, "LISTEN news")
        conn.commit()
        run(conn, "NOTIFY news, 'private'")
        conn.commit()
        run(conn, "SELECT 1")  # psycopg keeps what comes with it for a later notifies()
    with pool.connection() as other:
        assert other is conn
        assert list(other.notifies(timeout=0)) == []


def test_an_error_of_psycopgs_own_keeps_no_frame_with_the_password() -> None:
    """It reads connect_timeout itself, and its error has one of Python's for its cause.

    The pool refuses such a number before; Django's settings reach psycopg another way.
    """
    import psycopg

    from dbpool.drivers.psycopg import PsycopgDriver

    with pytest.raises(psycopg.ProgrammingError) as caught:
        psycopg.connect("host=127.0.0.1 password=sEcReT connect_timeout=soon")
    failure: BaseException = caught.value
    PsycopgDriver().forget_password(failure)
    errors: list[BaseException | None] = [failure]
    shown = 0
    while errors:
        error = errors.pop()
        if error is None:
            continue
        shown += 1
        traceback = error.__traceback__
        while traceback is not None:
            frame, traceback = traceback.tb_frame, traceback.tb_next
            assert "sEcReT" not in repr(frame.f_locals)
        errors += (error.__cause__, error.__context__)
    assert shown > 1, "there is no cause to look at"


def test_the_pools_own_questions_are_not_prepared(pg_pool: MakePool) -> None:
    pool = pg_pool(validate="ping")
    for _ in range(10):
        with pool.connection() as conn:
            pass
    with pool.connection() as conn:
        conn.prepare_threshold = 0
        pool.driver.ping(conn)
        assert conn.cursor().execute(PREPARED, prepare=False).fetchone() == (0,)


# Handlers


def test_handlers_of_a_borrower_hear_nothing_of_the_next(pg_pool: MakePool) -> None:
    heard: list[str] = []
    configured: list[str] = []

    def configure(conn: Any) -> None:
        conn.add_notice_handler(lambda notice: configured.append(notice.message_primary))

    pool = pg_pool(configure=configure)
    conn = pool.getconn()
    conn.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    conn.add_notify_handler(lambda notify: heard.append(notify.payload))
    run(conn, "LISTEN news")
    conn.commit()
    pool.putconn(conn)
    with pool.connection() as other:
        assert other is conn
        run(other, "DO $$ BEGIN RAISE NOTICE 'private'; END $$")
        run(other, "NOTIFY news, 'private'")
        other.commit()
        run(other, "SELECT 1")
    assert heard == []
    assert configured == ["private"]


# Classes


def test_a_connection_class_of_ones_own_serves(pg_pool: MakePool) -> None:
    import psycopg

    class Mine(psycopg.Connection):  # type: ignore[misc,type-arg]
        pass

    pool = pg_pool(kwargs={"connection_class": Mine})
    for _ in range(2):
        with pool.connection() as conn:
            assert type(conn) is Mine


def test_an_asynchronous_class_is_refused_with_a_clear_word(
    pg_pool: MakePool, postgres: Postgres, new_pool: MakePool
) -> None:
    import psycopg

    for given in (psycopg.AsyncConnection, psycopg.Connection.connect, None):
        with pytest.raises(TypeError, match=r"connection_class=.* takes psycopg\.Connection"):
            pg_pool(kwargs={"connection_class": given})
    pool = pg_pool(kwargs=lambda: {"connection_class": psycopg.AsyncConnection})
    with pytest.raises(Misconfigured, match="connection_class="):
        pool.getconn(PATIENCE)


def test_a_pool_that_is_dropped_warns_of_nothing(postgres: Postgres) -> None:
    pool = ConnectionPool(postgres.dsn(), driver="psycopg", max_size=2)
    with pool.connection(), pool.connection():
        pass
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del pool
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
