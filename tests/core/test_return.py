"""Giving a connection back: what the next borrower finds, whatever the last one left."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extras
import pytest
from psycopg2 import extensions

from dbpool import ConnectionPool, TransactionAborted
from testproject.postgres import PostgresServer
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    settled,
    unseen_by_the_keeper,
    wait_for_waiters,
)
from tests.support.servers import Postgres
from tests.support.sessions import last_query, one, run_sql, terminate
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until


def pid_of(pool: ConnectionPool) -> int:
    """Return the session that the next borrower gets; it must be clean."""
    conn = pool.getconn()
    assert conn.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
    pool.putconn(conn)
    return int(conn.info.backend_pid)


def run(conn: Any, sql: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what the pool has warned of."""
    caplog.set_level(logging.WARNING, "dbpool")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("dbpool")]


# By the state of its transaction


def test_an_idle_connection_is_kept_without_a_round_trip(
    pg_pool: MakePool, postgres: Postgres, warnings_of: Callable[[], list[str]]
) -> None:
    pool = pg_pool()
    conn = pool.getconn()
    conn.autocommit = True
    run(conn, "SELECT 'the last word'")
    conn.autocommit = False
    pool.putconn(conn)
    assert last_query(postgres, conn.info.backend_pid) == "SELECT 'the last word'"
    assert pool.getconn() is conn
    pool.putconn(conn)
    assert warnings_of() == []


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("failed", [False, True])
def test_an_open_or_failed_transaction_is_rolled_back_and_the_session_kept(
    failed: bool,
    autocommit: bool,
    pg_pool: MakePool,
    postgres: Postgres,
    warnings_of: Callable[[], list[str]],
) -> None:
    run_sql(postgres, "CREATE TABLE IF NOT EXISTS left_open (i int)")
    run_sql(postgres, "TRUNCATE left_open")
    pool = pg_pool(max_size=1, name="shop")
    conn = pool.getconn()
    conn.autocommit = autocommit
    if autocommit:
        run(conn, "BEGIN")  # psycopg2 knows nothing of it: its rollback() would send nothing
    run(conn, "INSERT INTO left_open VALUES (1)")
    if failed:
        with pytest.raises(psycopg2.errors.DivisionByZero):
            run(conn, "SELECT 1/0")
    pool.putconn(conn)
    assert pid_of(pool) == conn.info.backend_pid
    assert run_sql(postgres, "SELECT count(*) FROM left_open") == [(0,)]
    state = "a failed transaction" if failed else "an open transaction"
    assert warnings_of() == [f"pool 'shop': a connection came back in {state}: rolled back"]
    assert pool.get_stats()["returns_bad"] == 0
    expect_full_capacity(pool)


class Interrupted(BaseException):
    """Cuts a COPY short."""


class CutShort(io.StringIO):
    def write(self, text: str) -> int:
        raise Interrupted


def copy_out(conn: Any) -> None:
    with conn.cursor() as cursor, pytest.raises(Interrupted):
        cursor.copy_expert("COPY (SELECT generate_series(1, 100000)) TO STDOUT", CutShort())


def copy_in(conn: Any) -> None:
    with pytest.raises(psycopg2.ProgrammingError):  # use copy_from; but it runs by now
        run(conn, "COPY pg_temp.t FROM STDIN")


@pytest.mark.parametrize("copy", [copy_out, copy_in])
@pytest.mark.parametrize("autocommit", [False, True])
def test_a_copy_in_progress_costs_the_connection_and_nobody_reads_its_rest(
    copy: Callable[[Any], None], autocommit: bool, pg_pool: MakePool
) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    conn.autocommit = autocommit
    run(conn, "CREATE TEMP TABLE t (i int)")
    copy(conn)
    assert conn.get_transaction_status() == extensions.TRANSACTION_STATUS_ACTIVE
    pool.putconn(conn)
    with pool.connection() as other:
        assert other is not conn
        assert one(other, "SELECT 'mine'") == "mine"
    stats = pool.get_stats()
    assert stats["returns_bad"] == 1
    assert stats["connections_closed"] == {"broken": 1}
    expect_full_capacity(pool)


def test_a_query_in_flight_costs_the_connection(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    pid = conn.info.backend_pid
    query = in_thread(run, conn, "SELECT pg_sleep(60)")
    wait_until(lambda: "pg_sleep" in last_query(postgres, pid), PATIENCE)
    returning = in_thread(pool.putconn, conn)  # close() waits for the query: end it
    terminate(postgres, pid)
    returning.result(PATIENCE)
    with pytest.raises(psycopg2.Error):
        query.result(PATIENCE)
    assert pid_of(pool) != pid
    assert pool.get_stats()["returns_bad"] == 1
    expect_full_capacity(pool)


def test_a_connection_returned_closed_is_replaced(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    pid = conn.info.backend_pid
    conn.close()
    pool.putconn(conn)
    assert pid_of(pool) != pid
    assert pool.get_stats()["returns_bad"] == 1
    expect_full_capacity(pool)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_session_that_ended_while_lent_is_replaced(
    in_transaction: bool, pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    pid = conn.info.backend_pid
    if in_transaction:
        run(conn, "SELECT 1")
    terminate(postgres, pid)
    with pytest.raises(psycopg2.Error):
        run(conn, "SELECT 1")
    pool.putconn(conn)
    assert pid_of(pool) != pid
    expect_full_capacity(pool)


def test_a_session_that_ended_unnoticed_in_a_transaction_is_replaced(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    pid = conn.info.backend_pid
    run(conn, "SELECT 1")
    terminate(postgres, pid)
    pool.putconn(conn)  # the roll-back finds out
    assert pid_of(pool) != pid
    assert pool.get_stats()["returns_bad"] == 1


def test_close_true_closes(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    run(conn, "SELECT 1")
    pool.putconn(conn, close=True)
    assert conn.closed
    stats = pool.get_stats()
    assert stats["connections_closed"] == {"returned_closed": 1}
    assert (stats["returns_bad"], stats["pool_size"]) == (0, 0)
    expect_full_capacity(pool)


def test_the_waiter_is_served_when_a_broken_connection_comes_back(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    waiter = in_thread(pool.getconn, PATIENCE)
    wait_for_waiters(pool, 1)
    conn.close()
    pool.putconn(conn)
    fresh = waiter.result(PATIENCE)
    assert one(fresh, "SELECT 1") == 1
    pool.putconn(fresh)


def test_a_roll_back_on_a_frozen_server_is_bounded_by_ping_timeout(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(), max_size=1, ping_timeout=0.2)
    conn = pool.getconn()
    run(conn, "SELECT 1")
    breakable_postgres.freeze()
    in_thread(pool.putconn, conn).result(PATIENCE)
    assert pool.get_stats()["returns_bad"] == 1
    breakable_postgres.thaw()
    expect_full_capacity(pool)


# By what the borrower changed


def autocommit(conn: Any) -> None:
    conn.autocommit = not conn.autocommit


def isolation_level(conn: Any) -> None:
    conn.isolation_level = extensions.ISOLATION_LEVEL_REPEATABLE_READ


def readonly(conn: Any) -> None:
    conn.readonly = True


def deferrable(conn: Any) -> None:
    conn.deferrable = True


def cursor_factory(conn: Any) -> None:
    conn.cursor_factory = psycopg2.extras.DictCursor


def all_of_them(conn: Any) -> None:
    for change in CHANGES[:-1]:
        change(conn)


def all_on_the_server(conn: Any) -> None:
    """In autocommit mode psycopg2 sets them on the server at once."""
    conn.autocommit = True
    conn.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)


def set_on_the_server_and_left(conn: Any) -> None:
    all_on_the_server(conn)
    conn.autocommit = False


CHANGES = [autocommit, isolation_level, readonly, deferrable, cursor_factory, all_of_them]
SETTINGS = ("isolation", "read_only", "deferrable")


def state_of(conn: Any) -> tuple[object, ...]:
    ours = (conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit)
    with conn.cursor(cursor_factory=extensions.cursor) as cursor:
        servers = []
        for name in SETTINGS:
            cursor.execute(f"SHOW default_transaction_{name}")
            servers.append(cursor.fetchone())
        for name in SETTINGS:
            cursor.execute(f"SHOW transaction_{name}")
            servers.append(cursor.fetchone())
    conn.rollback()
    return (*ours, conn.cursor_factory, *servers)


def as_serializable(conn: Any) -> None:
    conn.set_session(isolation_level="SERIALIZABLE", deferrable=True, autocommit=True)


@pytest.mark.parametrize("configure", [None, as_serializable])
@pytest.mark.parametrize("leave_open", [False, True])
@pytest.mark.parametrize("change", [*CHANGES, all_on_the_server, set_on_the_server_and_left])
def test_what_the_borrower_changed_is_put_back_and_the_session_kept(
    change: Callable[[Any], None],
    leave_open: bool,
    configure: Callable[[Any], None] | None,
    pg_pool: MakePool,
) -> None:
    pool = pg_pool(max_size=1, configure=configure)
    with pool.connection() as conn:
        pid, before = conn.info.backend_pid, state_of(conn)
    conn = pool.getconn()
    change(conn)
    if leave_open:
        run(conn, "BEGIN" if conn.autocommit else "SELECT 1")
    pool.putconn(conn)
    with pool.connection() as conn:
        assert conn.info.backend_pid == pid
        assert state_of(conn) == before
    expect_full_capacity(pool)


def test_what_the_pool_wants_on_the_server_outlives_reset_discard(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1, configure=as_serializable, reset="discard")
    states = []
    for _ in range(3):
        with pool.connection() as conn:
            states.append((conn.info.backend_pid, state_of(conn)))
    assert states == states[:1] * 3


def test_attributes_that_cannot_be_put_back_cost_the_connection(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1)
    conn = pool.getconn()
    conn.setting = "mine"

    def fail(_: object) -> None:
        raise StubError("cannot")

    stub.hooks["restore"] = fail
    pool.putconn(conn)
    with pool.connection() as other:
        assert other is not conn
        assert other.setting == "default"
    expect_full_capacity(pool)


# reset


LEAVINGS = """
    SET search_path = somewhere; CREATE TEMP TABLE mine (i int); LISTEN news;
    PREPARE question AS SELECT 1; SELECT pg_advisory_lock(4711)
"""


def leavings(conn: Any) -> list[bool]:
    return [
        one(conn, "SHOW search_path") == "somewhere",
        one(conn, "SELECT to_regclass('pg_temp.mine') IS NOT NULL"),
        one(conn, "SELECT count(*) FROM pg_listening_channels()") == 1,
        one(conn, "SELECT count(*) FROM pg_prepared_statements") == 1,
        one(
            conn,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        )
        == 1,
    ]


@pytest.mark.parametrize("reset", [None, "rollback"])
def test_without_reset_the_session_state_is_the_callers(reset: Any, pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1, reset=reset)
    with pool.connection() as conn:
        run(conn, LEAVINGS)
    with pool.connection() as conn:
        assert leavings(conn) == [True] * 5


def test_reset_discard_forgets_the_session_state(pg_pool: MakePool) -> None:
    configured: list[int] = []
    pool = pg_pool(max_size=1, reset="discard", configure=lambda conn: configured.append(1))
    with pool.connection() as conn:
        pid = conn.info.backend_pid
        run(conn, LEAVINGS)
    with pool.connection() as conn:
        assert conn.info.backend_pid == pid
        assert leavings(conn) == [False] * 5
    assert len(configured) >= 2, "what configure had set is gone with the rest"


def test_a_reset_of_ones_own_runs_after_each_return_and_not_before(pg_pool: MakePool) -> None:
    calls: list[int] = []

    def reset(conn: Any) -> None:
        assert conn.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
        calls.append(conn.info.backend_pid)
        run(conn, "RESET search_path")
        conn.commit()

    pool = pg_pool(max_size=1, reset=reset)
    conn = pool.getconn()
    pid = conn.info.backend_pid
    assert calls == []
    run(conn, "SET search_path = somewhere")
    conn.commit()
    run(conn, "SELECT 1")
    pool.putconn(conn)
    assert calls == [pid]
    with pool.connection() as conn:
        assert one(conn, "SHOW search_path") != "somewhere"
    assert calls == [pid] * 2


def test_a_failing_reset_costs_the_connection_and_is_logged(
    pg_pool: MakePool, warnings_of: Callable[[], list[str]]
) -> None:
    pool = pg_pool(max_size=1, name="shop", reset=lambda conn: run(conn, "SELECT 1/0"))
    conn = pool.getconn()
    pool.putconn(conn)
    assert conn.closed
    assert any("reset failed with DivisionByZero" in text for text in warnings_of())
    settled(pool)
    assert pool.get_stats()["pool_size"] == 0


def test_a_reset_that_leaves_a_transaction_costs_the_connection_and_is_logged(
    pg_pool: MakePool, warnings_of: Callable[[], list[str]]
) -> None:
    pool = pg_pool(max_size=1, reset=lambda conn: run(conn, "SELECT 1"))
    conn = pool.getconn()
    pool.putconn(conn)
    assert conn.closed
    assert any("reset left a transaction open" in text for text in warnings_of())


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, SystemExit, Interrupted])
def test_an_interrupted_reset_costs_no_slot(
    error: type[BaseException], stub_pool: MakePool, stub: StubDriver
) -> None:
    errors = [error()]

    def reset(conn: object) -> None:
        if errors:
            raise errors.pop()

    pool = stub_pool(max_size=2, reset=reset)
    conn = pool.getconn()
    with pytest.raises(error):
        pool.putconn(conn)
    expect_full_capacity(pool)
    assert stub.open_connections == 2
    assert conn.closed


def test_a_reset_that_hangs_is_bounded_by_ping_timeout(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1, ping_timeout=0.2, reset=lambda c: run(c, "SELECT pg_sleep(300)"))
    conn = pool.getconn()
    in_thread(pool.putconn, conn).result(PATIENCE)
    assert conn.closed
    assert pool.get_stats()["pool_size"] == 0


# Returned by mistake


def test_a_second_return_is_refused_and_harms_nothing(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2, name="shop")
    conn = pool.getconn()
    pool.putconn(conn)
    for _ in range(2):
        with pytest.raises(ValueError, match="'shop' has not lent this connection"):
            pool.putconn(conn)
    with pytest.raises(ValueError, match="returned already"):
        pool.putconn(conn, close=True)
    assert not conn.closed
    assert pool.get_stats()["returns_bad"] == 0
    expect_full_capacity(pool)


def test_a_return_to_another_pool_is_refused_and_harms_neither(stub_pool: MakePool) -> None:
    mine, other = stub_pool(max_size=1), stub_pool(max_size=1)
    conn = mine.getconn()
    for stranger in (conn, object(), None):
        with pytest.raises(ValueError, match="belongs to another pool"):
            other.putconn(stranger)
    assert mine.get_stats()["pool_size"] == 1
    mine.putconn(conn)
    expect_full_capacity(mine)
    expect_full_capacity(other)


def test_a_stranger_with_the_id_of_a_dropped_connection_is_refused(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1, background=False)
    key = id(pool.getconn())  # dropped at once
    for _ in range(100):
        stranger = type("Stranger", (), {})()
        if id(stranger) == key:
            with pytest.raises(ValueError, match="has not lent"):
                pool.own(stranger, None)
            with pytest.raises(ValueError, match="has not lent"):
                pool.putconn(stranger)
            break
    expect_full_capacity(pool)


def test_a_return_by_another_thread_while_the_holder_lives_is_warned_about(
    stub_pool: MakePool, warnings_of: Callable[[], list[str]]
) -> None:
    pool = stub_pool(max_size=1)
    conn = pool.getconn()
    in_thread(pool.putconn, conn).result(PATIENCE)
    (text,) = warnings_of()
    assert "'caller' returned a connection that thread 'MainThread' borrowed" in text
    expect_full_capacity(pool)


def test_returns_by_other_threads_are_warned_about_once_in_a_while(
    stub_pool: MakePool, warnings_of: Callable[[], list[str]]
) -> None:
    """Worker threads hand on what they have borrowed: `asyncio.to_thread(pool.getconn)`."""
    pool = stub_pool(max_size=1)
    for _ in range(5):
        in_thread(pool.putconn, pool.getconn()).result(PATIENCE)
    assert len(warnings_of()) == 1
    expect_full_capacity(pool)


def test_a_block_that_ends_in_another_thread_is_nothing_to_warn_about(
    pg_pool: MakePool, warnings_of: Callable[[], list[str]]
) -> None:
    """As the dependencies of FastAPI do: it is over, and nobody uses its connection any more."""
    pool = pg_pool(max_size=1)

    def leave(error: Exception | None) -> None:
        block = pool.connection()
        block.__enter__()
        kind = None if error is None else type(error)
        in_thread(block.__exit__, kind, error, None).result(PATIENCE)

    for error in (None, KeyError("mine"), None):
        leave(error)
    assert warnings_of() == []
    assert pool.get_stats()["connections_num"] == 1
    expect_full_capacity(pool)


def test_a_return_on_behalf_of_a_thread_that_ended_is_nothing_to_warn_about(
    stub_pool: MakePool, warnings_of: Callable[[], list[str]]
) -> None:
    pool = stub_pool(max_size=1)
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(pool.getconn()))
    thread.start()
    thread.join()
    pool.putconn(taken.pop())
    assert warnings_of() == []
    expect_full_capacity(pool)


# with pool.connection()


@pytest.fixture
def table(postgres: Postgres) -> str:
    run_sql(postgres, "CREATE TABLE IF NOT EXISTS written (i int)")
    run_sql(postgres, "TRUNCATE written")
    return "written"


def insert(
    pool: ConnectionPool,
    table: str,
    first: str = "",
    then: Callable[[Any], None] = lambda conn: None,
) -> None:
    with pool.connection() as conn:
        run(conn, f"{first}; INSERT INTO {table} VALUES (1)")
        then(conn)


def raising(error: BaseException) -> Callable[[Any], None]:
    def fail(conn: Any) -> None:
        raise error

    return fail


def test_the_block_commits_at_its_end(pg_pool: MakePool, postgres: Postgres, table: str) -> None:
    pool = pg_pool(max_size=1)
    with pool.connection() as conn:
        run(conn, f"INSERT INTO {table} VALUES (1)")
    assert run_sql(postgres, f"SELECT * FROM {table}") == [(1,)]
    assert pid_of(pool) == conn.info.backend_pid


def test_the_block_rolls_back_on_an_exception_and_lets_it_through(
    pg_pool: MakePool, postgres: Postgres, table: str, warnings_of: Callable[[], list[str]]
) -> None:
    pool = pg_pool(max_size=1)
    pid = pid_of(pool)
    with pytest.raises(KeyError, match="mine"):
        insert(pool, table, then=raising(KeyError("mine")))
    assert run_sql(postgres, f"SELECT * FROM {table}") == []
    assert pid_of(pool) == pid
    assert warnings_of() == []


def test_a_block_that_swallowed_a_database_error_is_told_that_nothing_is_committed(
    pg_pool: MakePool, postgres: Postgres, table: str
) -> None:
    pool = pg_pool(max_size=1)
    pid = pid_of(pool)

    def swallow(conn: Any) -> None:
        with pytest.raises(psycopg2.errors.DivisionByZero):
            run(conn, "SELECT 1/0")

    with pytest.raises(TransactionAborted, match="rolled back"):
        insert(pool, table, then=swallow)
    assert run_sql(postgres, f"SELECT * FROM {table}") == []
    assert pid_of(pool) == pid


def test_a_block_in_autocommit_commits_a_begin_sent_as_sql(
    pg_pool: MakePool, postgres: Postgres, table: str
) -> None:
    pool = pg_pool(max_size=1)
    with pool.connection() as conn:
        conn.autocommit = True
        run(conn, "BEGIN")
        run(conn, f"INSERT INTO {table} VALUES (1)")
    assert run_sql(postgres, f"SELECT * FROM {table}") == [(1,)]
    assert pid_of(pool) == conn.info.backend_pid


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, SystemExit, Interrupted])
def test_a_block_that_is_interrupted_costs_the_connection_and_no_slot(
    error: type[BaseException], pg_pool: MakePool, postgres: Postgres, table: str
) -> None:
    """A query may have been cut short with its answer still on the wire."""
    pool = pg_pool(max_size=1)
    pid = pid_of(pool)
    with pytest.raises(error):
        insert(pool, table, then=raising(error()))
    assert pid_of(pool) != pid
    assert run_sql(postgres, f"SELECT * FROM {table}") == []
    expect_full_capacity(pool)


@pytest.mark.parametrize("how", ["tcp", "unix"])
def test_a_block_that_saw_the_link_fail_costs_the_connection(
    how: str, breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    """Over a unix socket psycopg2 still calls itself open, and the transaction idle."""
    pool = new_pool(breakable_postgres.dsn(unix=how == "unix"), max_size=1, validate_after=60)
    for _ in range(3):
        with pool.connection() as conn:
            assert one(conn, "SELECT 1") == 1
        unseen_by_the_keeper(pool)
        breakable_postgres.restart("immediate")
        with pytest.raises(psycopg2.DatabaseError), pool.connection() as conn:
            one(conn, "SELECT 1")
        with pool.connection() as conn:
            assert one(conn, "SELECT 1") == 1
    expect_full_capacity(pool)


def test_a_connection_reported_as_read_only_is_replaced(pg_pool: MakePool, table: str) -> None:
    """What a client sees of a server that was demoted."""
    pool = pg_pool(max_size=1)
    pid = pid_of(pool)
    with pool.connection() as conn:
        conn.autocommit = True
        run(conn, "SET default_transaction_read_only = on")
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        insert(pool, table)
    del conn
    assert pid_of(pool) != pid
    expect_full_capacity(pool)


def test_a_transaction_that_its_borrower_made_read_only_costs_no_connection(
    pg_pool: MakePool, table: str
) -> None:
    pool = pg_pool(max_size=1)
    pid = pid_of(pool)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        insert(pool, table, first="SET TRANSACTION READ ONLY")
    assert pid_of(pool) == pid
    expect_full_capacity(pool)


def test_a_block_may_be_entered_again_but_not_twice_at_once(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    block = pool.connection()
    for _ in range(2):
        with block as conn:
            assert conn.number
            with pytest.raises(RuntimeError, match=r"call pool\.connection\(\) again"):
                block.__enter__()
    expect_full_capacity(pool)


def test_the_block_is_a_small_object_without_a_dict(stub_pool: MakePool) -> None:
    block = stub_pool().connection()
    assert not hasattr(block, "__dict__")
    assert "__slots__" in vars(type(block))


def test_a_block_whose_connection_was_returned_inside_says_so(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    with pytest.raises(ValueError, match="returned already"), pool.connection() as conn:
        pool.putconn(conn)
    expect_full_capacity(pool)


def test_every_state_left_by_one_borrower_is_unseen_by_the_next(pg_pool: MakePool) -> None:
    """Whatever is left, in any order, the next answer is the next one's own."""
    pool = pg_pool(max_size=2)

    def leave(conn: Any, how: int) -> None:
        if how == 0:
            run(conn, "SELECT 'somebody else''s'")
        elif how == 1:
            with pytest.raises(psycopg2.Error):
                run(conn, "SELECT 1/0")
        elif how == 2:
            conn.autocommit = True
            run(conn, "BEGIN; SELECT 'somebody else''s'")
        elif how == 3:
            conn.close()
        elif how == 4:
            with pytest.raises(psycopg2.Error):
                run(conn, "COPY (SELECT 'somebody else''s') TO STDOUT")

    for turn in range(20):
        conn = pool.getconn()
        leave(conn, turn % 5)
        pool.putconn(conn)
        with pool.connection() as conn:
            assert not conn.autocommit
            assert one(conn, "SELECT %s", turn) == turn
    expect_full_capacity(pool)


def test_a_return_takes_what_the_borrower_used_into_account(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1)
    with lent(pool, 1):
        time.sleep(0.02)
    stats = pool.get_stats()
    assert stats["usage_ms"] >= 20
    assert sum(stats["use_time"]["counts"][2:]) == 1
