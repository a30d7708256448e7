"""`dbpool.adapters`: what a loan's verbs do, and what each costs the pool."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from dbpool import TransactionAborted, adapters
from dbpool.adapters import borrow, close_with
from tests.support import inside
from tests.support.callers import MakePool, expect_full_capacity
from tests.support.forking import in_child
from tests.support.servers import Postgres
from tests.support.stub_driver import StubDriver
from tests.support.waiting import PATIENCE, wait_until


def use(pool: Any) -> None:
    with pool.connection():
        pass


def ask_until_it_fails(conn: Any) -> None:
    while True:  # the server takes its time to end a session
        conn.cursor().execute("SELECT 1")


class Unit:
    """A unit of work, which answers for its connection as long as it lives."""

    alive = True

    def is_alive(self) -> bool:
        return self.alive


def count(conn: Any) -> int:
    cursor = conn.cursor()
    cursor.execute("SELECT count(*) FROM note")
    return int(cursor.fetchone()[0])


@pytest.fixture
def pool(pg_pool: MakePool) -> Any:
    def table(conn: Any) -> None:
        conn.cursor().execute("CREATE TEMP TABLE IF NOT EXISTS note (n int)")
        conn.commit()

    return pg_pool(max_size=1, configure=table)


def test_a_commit_stays_and_what_is_not_committed_does_not(pool: Any) -> None:
    conn, loan = borrow(pool, Unit())
    conn.cursor().execute("INSERT INTO note VALUES (1)")
    loan.commit(conn)
    conn.cursor().execute("INSERT INTO note VALUES (2)")
    loan.give_back(conn)
    del conn
    conn, loan = borrow(pool)
    assert count(conn) == 1
    loan.give_back(conn)
    assert pool.get_stats()["connections_num"] == 1


def test_a_failed_transaction_is_never_committed_in_silence(pool: Any) -> None:
    conn, loan = borrow(pool)
    with pytest.raises(Exception, match="division by zero"):
        conn.cursor().execute("SELECT 1/0")
    with pytest.raises(TransactionAborted):
        loan.commit(conn)
    loan.give_back(conn)
    inside.audit(pool)


def test_what_was_cut_short_is_closed(pool: Any) -> None:
    conn, loan = borrow(pool)
    loan.give_back(conn, torn=True)
    assert conn.closed
    assert pool.get_stats()["connections_closed"] == {"returned_closed": 1}


def test_an_error_that_ends_the_session_closes_it(pool: Any, postgres: Postgres) -> None:
    conn, loan = borrow(pool)
    assert not loan.note_error(conn, ValueError("none of the driver's"))
    pid = conn.info.backend_pid
    postgres.sql(f"SELECT pg_terminate_backend({pid})")
    with pytest.raises(pool.driver.OperationalError) as caught:
        ask_until_it_fails(conn)
    assert loan.note_error(conn, caught.value)
    loan.give_back(conn)
    use(pool)
    assert pool.get_stats()["pool_size"] == 1


def test_cursors_end_with_the_loan(pool: Any) -> None:
    conn, loan = borrow(pool)
    cursor = loan.track(conn.cursor())
    loan.give_back(conn)
    assert cursor.closed
    assert not conn.closed


def test_a_named_cursor_that_is_open_costs_the_connection(pool: Any) -> None:
    conn, loan = borrow(pool)
    cursor = loan.track(conn.cursor(name="large"))
    cursor.execute("SELECT 1")
    loan.give_back(conn)
    assert conn.closed


def test_dropped_cursors_are_forgotten(stub_pool: MakePool) -> None:
    class Cursor:
        closed = False

    conn, loan = borrow(stub_pool())
    held = [loan.track(Cursor()) for _ in range(200)]
    del held
    for _ in range(500):
        loan.track(Cursor())
    assert len(loan.cursors or []) <= 2 * adapters.FEW
    assert loan.open_cursors() == []
    loan.give_back(conn)


def test_an_owner_that_is_none_costs_no_connection(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    nobody: Any = object()
    with pytest.raises(TypeError, match="it takes an object with is_alive"):
        borrow(pool, nobody)
    assert pool.get_stats()["pool_available"] == 1, "given back, not dropped"
    expect_full_capacity(pool)


def test_what_was_taken_back_from_a_dead_owner_is_told_when_it_comes(
    stub_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool, unit = stub_pool(max_size=1), Unit()
    conn, loan = borrow(pool, unit)
    unit.alive = False
    use(pool)  # which needs the slot
    with caplog.at_level(logging.WARNING, logger="dbpool.pool"):
        loan.give_back(conn)
    assert "taken a connection back from an owner that seemed dead" in caplog.text
    expect_full_capacity(pool)


def test_a_proxy_leads_to_what_the_pool_has_lent(stub_pool: MakePool) -> None:
    class Proxy:
        def __init__(self, wrapped: Any) -> None:
            self.__wrapped__ = wrapped

    pool = stub_pool()
    conn = pool.getconn()
    assert adapters.lent(pool, Proxy(Proxy(conn))) is conn
    stranger = Proxy(object())
    assert adapters.lent(pool, stranger) is stranger
    pool.putconn(conn)


def test_pools_close_when_what_they_belong_to_is_gone(
    stub: StubDriver, stub_pool: MakePool
) -> None:
    class App:
        pass

    app, pool = App(), stub_pool(max_size=1)
    use(pool)
    close_with(app, "app", {"default": pool})
    assert not pool.closed
    del app
    gc.collect()
    wait_until(lambda: pool.closed, PATIENCE, "the scheduler closes it")


def test_a_callback_runs_in_a_forked_child() -> None:
    ran: list[bool] = []
    adapters.after_fork(lambda: ran.append(True))
    try:
        assert in_child(lambda: ran == [True])
        assert ran == []
    finally:
        inside.forget_last_on_child()
