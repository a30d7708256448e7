"""First come, first served: by direct hand-off, past nobody, and never to one who has left."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from dbpool import ConnectionPool, PoolTimeout
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    wait_for_waiters,
)
from tests.support.stub_driver import StubConnection, StubDriver
from tests.support.waiting import wait_until


def test_waiters_are_served_in_the_order_in_which_they_came(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    order: list[int] = []

    def use(number: int) -> None:
        conn = pool.getconn(PATIENCE)
        order.append(number)
        pool.putconn(conn)

    callers = []
    with lent(pool, 1):
        for number in range(10):
            callers.append(in_thread(use, number))
            wait_for_waiters(pool, number + 1)
    for caller in callers:
        caller.result(PATIENCE)
    assert order == list(range(10))
    expect_full_capacity(pool)


def test_six_callers_on_two_connections_are_served_in_pairs(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    served: list[int] = []
    ends = [threading.Event() for _ in range(6)]

    def use(number: int) -> None:
        conn = pool.getconn(PATIENCE)
        served.append(number)
        ends[number].wait(PATIENCE)
        pool.putconn(conn)

    callers = []
    for number in range(6):
        callers.append(in_thread(use, number))
        if number < 2:
            wait_until(lambda n=number: len(served) == n + 1, PATIENCE)
        else:
            wait_for_waiters(pool, number - 1)
    for pair in (0, 2, 4):
        assert sorted(served) == list(range(pair + 2))
        ends[pair].set()
        ends[pair + 1].set()
        if pair < 4:
            wait_until(lambda p=pair: len(served) == p + 4, PATIENCE)
    for caller in callers:
        caller.result(PATIENCE)


def test_a_newcomer_never_overtakes_a_waiter(stub_pool: MakePool) -> None:
    """Whoever returns a connection is itself the quickest to ask again, and must not get it."""
    pool = stub_pool(max_size=1)
    conn = pool.getconn()
    for _ in range(100):
        waiter = in_thread(pool.getconn, PATIENCE)
        wait_for_waiters(pool, 1)
        pool.putconn(conn)
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        assert waiter.result(PATIENCE) is conn
    pool.putconn(conn)
    assert pool.get_stats()["rescues"] == 0


def test_nobody_starves(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    counts = [0] * 8
    ready, end = threading.Barrier(8), threading.Event()

    def work(number: int) -> None:
        ready.wait(PATIENCE)
        while not end.is_set():
            with pool.connection(PATIENCE):
                counts[number] += 1
                time.sleep(0.0005)

    workers = [in_thread(work, number) for number in range(8)]
    wait_until(lambda: max(counts) >= 400, PATIENCE, "the busiest has had its 400 turns")
    end.set()
    for worker in workers:
        worker.result(PATIENCE)
    assert min(counts) >= 0.6 * max(counts), f"unfair: {counts}"
    expect_full_capacity(pool)


def test_a_waiter_that_gave_up_costs_the_next_one_nothing(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    with lent(pool, 1):
        first = in_thread(pool.getconn, 0.2)
        wait_for_waiters(pool, 1)
        second = in_thread(pool.getconn, PATIENCE)
        wait_for_waiters(pool, 2)
        with pytest.raises(PoolTimeout):
            first.result(PATIENCE)
        wait_for_waiters(pool, 1)
    pool.putconn(second.result(PATIENCE))
    expect_full_capacity(pool)


class Cancelled(BaseException):
    """What a framework throws into a thread to end its request."""


def cancel(thread: threading.Thread) -> None:
    assert thread.ident
    found = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(Cancelled)
    )
    assert found == 1


def test_a_cancelled_waiter_leaves_the_queue_and_the_next_one_is_served(
    stub_pool: MakePool,
) -> None:
    pool = stub_pool(max_size=1)
    threads: list[threading.Thread] = []

    def ask() -> StubConnection:
        threads.append(threading.current_thread())
        found: StubConnection = pool.getconn(PATIENCE)
        return found

    with lent(pool, 1):
        first = in_thread(ask)
        wait_for_waiters(pool, 1)
        second = in_thread(pool.getconn, PATIENCE)
        wait_for_waiters(pool, 2)
        cancel(threads[0])
        with pytest.raises(Cancelled):
            first.result(PATIENCE)
        wait_for_waiters(pool, 1)
    pool.putconn(second.result(PATIENCE))
    expect_full_capacity(pool)


def test_a_connection_delivered_to_one_who_is_being_cancelled_goes_to_the_next(
    stub_pool: MakePool,
) -> None:
    """The exception is due while the waiter still sleeps; the delivery wakes it."""
    pool = stub_pool(max_size=1)
    for _ in range(20):
        threads: list[threading.Thread] = []

        def ask(threads: list[threading.Thread] = threads) -> None:
            threads.append(threading.current_thread())
            pool.putconn(pool.getconn(PATIENCE))

        with lent(pool, 1):
            first = in_thread(ask)
            wait_for_waiters(pool, 1)
            second = in_thread(pool.getconn, PATIENCE)
            wait_for_waiters(pool, 2)
            cancel(threads[0])
        try:
            first.result(PATIENCE)
        except Cancelled:
            pass
        pool.putconn(second.result(PATIENCE))
    expect_full_capacity(pool)


def test_who_was_served_a_dead_connection_goes_back_to_the_head_of_the_queue(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1, validate="ping")
    order: list[str] = []

    def use(name: str) -> None:
        conn = pool.getconn(PATIENCE)
        order.append(name)
        pool.putconn(conn)

    with lent(pool, 1) as (conn,):
        conn.alive = False
    del conn
    asked, go = threading.Event(), threading.Event()

    def slow_ping(conn: StubConnection) -> None:
        asked.set()
        go.wait(PATIENCE)

    stub.hooks["ping"] = slow_ping
    stub.hooks["connect"] = lambda _: wait_for_waiters(pool, 2)
    first = in_thread(use, "first")
    assert asked.wait(PATIENCE)
    second = in_thread(use, "second")
    wait_for_waiters(pool, 1)
    go.set()
    first.result(PATIENCE)
    second.result(PATIENCE)
    assert order == ["first", "second"]


@pytest.fixture
def fine_switching() -> Iterator[None]:
    """Switch threads as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("fine_switching")
@pytest.mark.parametrize("max_size", [1, 3])
def test_no_wake_up_is_lost_in_many_thousand_hand_offs(max_size: int, stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=max_size)
    holders: dict[int, int] = {}
    shared: list[int] = []

    def work(number: int, pool: ConnectionPool) -> None:
        for _ in range(800):
            conn = pool.getconn(PATIENCE)
            if holders.setdefault(conn.number, number) != number:
                shared.append(number)
            time.sleep(0)  # let others queue
            del holders[conn.number]
            pool.putconn(conn)

    workers = [in_thread(work, number, pool) for number in range(8)]
    for worker in workers:
        worker.result(2 * PATIENCE)
    stats = pool.get_stats()
    assert shared == []
    assert stats["rescues"] == 0
    assert stats["requests_num"] == 8 * 800
    assert stats["requests_errors"] == 0
    expect_full_capacity(pool)
