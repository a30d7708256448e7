"""`max_use`: what is held for too long is cancelled, then cut off, and never lent again."""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from typing import Any

import psycopg2
import pytest

from dbpool.drivers.psycopg2 import Psycopg2Driver
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, expect_full_capacity, in_thread
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

SOON = 0.2  # seconds


def ask(conn: Any, sql: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(sql)


def test_a_statement_that_takes_too_long_is_cancelled_by_the_server(
    pg_pool: MakePool, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "CANCEL_GRACE", 4 * PATIENCE)  # it is not the cut that ends it
    pool = pg_pool(max_size=1, max_use=SOON)
    with pytest.raises(psycopg2.errors.QueryCanceled), pool.connection() as conn:
        ask(conn, "SELECT pg_sleep(100)")
    assert pool.get_stats()["connections_closed"] == {"max_use": 1}
    expect_full_capacity(pool)


def test_one_that_was_cancelled_is_not_lent_again(pg_pool: MakePool) -> None:
    """A cancel that arrives late would hit the statement of somebody else."""
    pool = pg_pool(max_size=1, max_use=SOON)
    conn = pool.getconn()
    first = conn.info.backend_pid
    with pytest.raises(psycopg2.errors.QueryCanceled):
        ask(conn, "SELECT pg_sleep(100)")
    pool.putconn(conn)
    with pool.connection() as conn:
        assert conn.info.backend_pid != first


def test_a_holder_that_asks_nothing_is_cut_off_after_the_grace(
    pg_pool: MakePool, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "CANCEL_GRACE", SOON)
    pool = pg_pool(name="sleepy", max_size=1, max_use=SOON)
    conn = pool.getconn()
    ask(conn, "CREATE TEMP TABLE t ()")  # in a transaction, idle
    wait_until(lambda: count_sessions(postgres, "dbpool:sleepy") == 0, PATIENCE, "it is cut off")
    with pytest.raises(psycopg2.OperationalError):
        ask(conn, "SELECT 1")
    pool.putconn(conn)
    assert pool.get_stats()["connections_closed"] == {"max_use": 1}
    expect_full_capacity(pool)


@pytest.mark.outage
def test_a_holder_is_freed_while_the_server_is_frozen(
    new_pool: MakePool, breakable_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "CANCEL_GRACE", SOON)
    pool = new_pool(breakable_postgres.dsn(), max_size=3, max_use=SOON)

    def hold() -> None:
        with pool.connection(PATIENCE) as conn:
            ask(conn, "SELECT pg_sleep(0.001)")
            frozen.wait(PATIENCE)
            ask(conn, "SELECT 1")

    frozen = threading.Event()
    holders = [in_thread(hold) for _ in range(3)]
    wait_until(lambda: len(inside.in_use(pool)) == 3, PATIENCE)
    breakable_postgres.freeze()
    frozen.set()
    for holder in holders:
        with pytest.raises(psycopg2.OperationalError):
            holder.result(PATIENCE)
    breakable_postgres.thaw()
    expect_full_capacity(pool)


def test_short_loans_are_left_alone_however_many_they_are(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1, max_use=2 * SOON)
    until = time.monotonic() + 6 * SOON
    while time.monotonic() < until:
        with pool.connection() as conn:
            ask(conn, "SELECT pg_sleep(0.01)")
    stats = pool.get_stats()
    # A machine that stops this thread for longer than max_use would rightly cost a connection.
    slow = sum(stats["use_time"]["counts"][5:])
    assert stats["connections_num"] <= 1 + slow


def test_the_limit_is_that_of_a_loan_not_of_a_connection(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lent again between two looks is another loan."""
    cancelled: list[Any] = []
    monkeypatch.setattr(stub, "canceller", lambda conn: cancelled.append(conn), raising=False)
    pool = stub_pool(max_size=1, max_use=10.0)
    conn = pool.getconn()
    limit = inside.use_limit(pool)
    assert limit is not None
    now = time.monotonic()
    since = inside.entry_of(pool, conn).since
    assert inside.upkeep(limit, now + 9.0) == since + 10.0, "not sooner"
    assert cancelled == []
    pool.putconn(conn)
    conn = pool.getconn()
    inside.upkeep(limit, now + 9.9)
    assert cancelled == []
    assert inside.upkeep(limit, now + 30.0) == pytest.approx(now + 30.0 + inside.CANCEL_GRACE)
    assert cancelled == [conn]
    inside.upkeep(limit, now + 30.5)
    assert cancelled == [conn], "asked once"
    pool.putconn(conn)


def test_one_that_is_just_being_lent_is_not_taken_for_long_held(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was idle for longer than max_use; the keeper looks as soon as it is among the loans."""
    cancelled: list[Any] = []
    monkeypatch.setattr(stub, "canceller", lambda conn: cancelled.append(conn), raising=False)
    pool = stub_pool(max_size=1, max_use=10.0)
    pool.putconn(pool.getconn())
    [entry] = inside.entries(pool)
    entry.since -= 20.0
    limit = inside.use_limit(pool)
    assert limit is not None

    class Watched(dict[int, Any]):
        def __setitem__(self, key: int, value: Any) -> None:
            super().__setitem__(key, value)
            inside.upkeep(limit, time.monotonic())

    inside.put(pool, in_use=Watched())
    pool.putconn(pool.getconn())
    assert cancelled == []
    assert pool.get_stats()["connections_closed"] == {}


def test_a_loan_that_ends_as_it_is_judged_costs_the_next_borrower_nothing(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[Any] = []
    monkeypatch.setattr(stub, "canceller", lambda conn: cancelled.append(conn), raising=False)
    pool = stub_pool(max_size=1, max_use=10.0)
    borrowed = [pool.getconn()]
    limit = inside.use_limit(pool)
    assert limit is not None
    expire = inside.original("mark_for_closing")

    def lend_again_and_expire(*args: Any) -> None:
        pool.putconn(borrowed.pop())
        borrowed.append(pool.getconn())
        expire(*args)

    inside.patch(monkeypatch, "mark_for_closing", lend_again_and_expire)
    inside.upkeep(limit, time.monotonic() + 20.0)
    monkeypatch.undo()
    assert cancelled == []
    pool.putconn(borrowed.pop())
    expect_full_capacity(pool)


def test_no_more_than_two_cancels_are_under_way_in_a_process(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        begun.release()
        go_on.wait(PATIENCE)

    monkeypatch.setattr(stub, "canceller", lambda conn: hang, raising=False)
    pool = stub_pool(max_size=5, max_use=10.0)
    held = [pool.getconn() for _ in range(5)]
    limit = inside.use_limit(pool)
    assert limit is not None
    try:
        inside.upkeep(limit, time.monotonic() + 20.0)
        assert begun.acquire(timeout=PATIENCE)
        assert begun.acquire(timeout=PATIENCE)
        assert sum(thread.name.startswith("dbpool-cancel") for thread in threading.enumerate()) == 2
    finally:
        go_on.set()
    assert not begun.acquire(timeout=0.1)
    for conn in held:
        pool.putconn(conn)
    wait_until(inside.may_cancel, PATIENCE, "places are free")


def test_it_is_told_once_in_a_while_and_without_the_statement(
    pg_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pg_pool(max_size=1, max_use=SOON, name="told")
    for _ in range(2):
        with pytest.raises(psycopg2.errors.QueryCanceled), pool.connection() as conn:
            ask(conn, "SELECT pg_sleep(100), 'hush'")
    told = [record for record in caplog.records if "max_use" in record.getMessage()]
    assert [(record.levelno, record.name) for record in told] == [(logging.WARNING, "dbpool.pool")]
    assert "'told'" in told[0].getMessage()
    assert "hush" not in caplog.text


def test_a_pool_without_threads_cannot_watch(new_pool: MakePool) -> None:
    with pytest.raises(ValueError, match=r"max_use=1.0 with background=False is not possible"):
        new_pool("", max_use=1.0, background=False)


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), "1", True])
def test_wrong_limits_are_refused(wrong: Any, new_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="max_use="):
        new_pool("", max_use=wrong)


def test_the_keeper_does_not_stay_for_it(stub_pool: MakePool) -> None:
    pool = stub_pool(max_use=10.0)
    pool.putconn(pool.getconn())
    pool.close()
    limit = inside.use_limit(pool)
    assert limit is not None
    assert inside.upkeep(limit, time.monotonic()) == float("inf")
    assert id(limit) not in inside.scheduler.pools


# Cutting what is somebody else's


def test_a_loan_that_outlives_its_pool_is_still_cancelled(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[Any] = []
    monkeypatch.setattr(stub, "canceller", lambda conn: cancelled.append(conn), raising=False)
    pool = stub_pool(max_size=1, max_use=10.0)
    conn = pool.getconn()
    limit = inside.use_limit(pool)
    assert limit is not None
    pool.close()
    inside.upkeep(limit, time.monotonic() + 30.0)
    assert cancelled == [conn]
    pool.putconn(conn)
    assert inside.upkeep(limit, time.monotonic() + 60.0) == math.inf, "nobody is left"


def test_what_closes_in_the_meantime_takes_no_other_socket_with_it() -> None:
    """Between looking a descriptor up and duplicating it its number may pass to another socket."""
    ours, peer = socket.socketpair()

    class Closing:
        """Its connection closes after the first look; the number is another socket's now."""

        def __init__(self) -> None:
            self.looks = 0

        def fileno(self, conn: object) -> int | None:
            self.looks += 1
            return ours.fileno() if self.looks == 1 else None

    with ours, peer:
        driver: Any = Closing()
        inside.sever_of(driver, object())
        ours.sendall(b"still here")
        assert peer.recv(10) == b"still here"


def test_a_closed_connection_has_nothing_to_cancel_nor_to_cut(postgres: Postgres) -> None:
    driver = Psycopg2Driver()
    conn = psycopg2.connect(postgres.dsn())
    assert one(conn, "SELECT 1") == 1
    conn.close()
    assert driver.canceller(conn) is None
    inside.sever_of(driver, conn)
