"""`admission="codel"` in a pool: under overload some are refused soon, and nobody is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from statistics import median

import pytest

from dbpool import ConnectionPool, PoolOverloaded, PoolTimeout
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    wait_for_waiters,
)
from tests.support.forking import in_child
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until

SOON = {"admission": "codel", "admission_target": 0.005, "admission_interval": 0.1}


def load(
    pool: ConnectionPool,
    callers: int,
    work: float,
    enough: int,
    until: str = "refused",
    waits: list[float] | None = None,
) -> Counter[str]:
    """Have so many callers ask over and over; return what they got.

    Arguments: `enough` of what `until` says end it; `waits` gets what those waited that are served.
    """
    got: Counter[str] = Counter()
    lock, stop = threading.Lock(), threading.Event()
    end = time.monotonic() + PATIENCE

    def call() -> None:
        while not stop.is_set() and time.monotonic() < end:
            asked = time.monotonic()
            try:
                with pool.connection(PATIENCE):
                    if waits is not None:
                        waits.append(time.monotonic() - asked)
                    time.sleep(work)
                outcome = "served"
            except PoolOverloaded:
                outcome = "refused"
            with lock:
                got[outcome] += 1
                if got[until] >= enough:
                    stop.set()

    for caller in [in_thread(call) for _ in range(callers)]:
        caller.result(2 * PATIENCE)
    return got


def test_under_overload_some_are_refused_and_the_rest_is_served(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2, **SOON)
    got = load(pool, callers=24, work=0.02, enough=100)
    assert got["refused"] >= 100
    assert got["served"] > 20
    stats = pool.get_stats()
    assert stats["requests_shed"] == stats["requests_errors"] == got["refused"]
    assert (stats["timeouts"], stats["requests_waiting"], stats["rescues"]) == (0, 0, 0)
    expect_full_capacity(pool)


def test_those_that_are_served_wait_short_beside_a_queue_that_all_stand_in(
    stub_pool: MakePool,
) -> None:
    waits: dict[str, list[float]] = {"fifo": [], "codel": []}
    for name, found in waits.items():
        pool = stub_pool(max_size=2, **{**SOON, "admission": name})
        load(pool, callers=24, work=0.02, enough=150, until="served", waits=found)
    # The first interval of an overload is taken for a burst: nobody is refused in it.
    fifo, codel = (median(found[50:]) for found in waits.values())
    assert codel < fifo / 2, (codel, fifo)


def test_without_admission_nobody_is(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    assert inside.admission(pool) is None
    with lent(pool, 2):
        waiter = in_thread(pool.getconn, 0.3)
        assert isinstance(waiter.exception(PATIENCE), PoolTimeout)


def test_where_nothing_comes_back_the_keeper_refuses(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, **SOON)
    with lent(pool, 1):
        waiters = [in_thread(pool.getconn, 10 * PATIENCE) for _ in range(5)]
        for waiter in waiters:
            assert isinstance(waiter.exception(PATIENCE), PoolOverloaded)
        wait_until(lambda: pool.get_stats()["requests_waiting"] == 0, PATIENCE)
    expect_full_capacity(pool)


def test_it_is_the_head_of_the_queue_that_tells_whether_it_stands(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, background=False, **SOON)
    admission = inside.admission(pool)
    assert admission is not None
    now = time.monotonic()
    with lent(pool, 1):
        inside.put(inside.peek(admission, "codel"), shortest=1.0, ends=now)
        first = inside.Waiter(now - 10.0)
        inside.waiters(pool).extend((first, inside.Waiter(now)))
        inside.upkeep(admission, now)
        inside.waiters(pool).append(inside.Waiter(now + 9.0))  # who comes last changes nothing
        inside.upkeep(admission, now + 10.0)
        assert first.withdraw() is not inside.GONE, "refused"
        inside.waiters(pool).clear()


def test_the_error_says_what_happened_and_when_to_come_back(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, name="shop", **SOON)
    with lent(pool, 1):
        error = in_thread(pool.getconn, 10 * PATIENCE).exception(PATIENCE)
    assert isinstance(error, PoolOverloaded)
    assert isinstance(error, StubError)
    assert "pool 'shop' is overloaded: for 0.1 s nobody" in str(error)
    assert (error.in_use, error.size, error.retry_after) == (1, 1, 0.1)
    assert error.waited > 0.01


def test_a_connection_meant_for_one_who_is_refused_goes_to_the_next(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = stub_pool(max_size=1, **SOON)
    admission = inside.admission(pool)
    assert admission is not None
    codel = inside.peek(admission, "codel")
    monkeypatch.setattr(codel, "tick", lambda *args: False)
    monkeypatch.setattr(codel, "refuses", lambda waited, now, others: others > 0)
    conn = pool.getconn()
    waiters = []
    for count in range(1, 4):
        waiters.append(in_thread(pool.getconn, PATIENCE))
        wait_for_waiters(pool, count)
    pool.putconn(conn)
    assert isinstance(waiters[0].exception(PATIENCE), PoolOverloaded)
    assert isinstance(waiters[1].exception(PATIENCE), PoolOverloaded)
    assert waiters[2].result(PATIENCE) is conn, "the last one is served"
    pool.putconn(conn)
    expect_full_capacity(pool)


def test_close_finds_nobody_to_refuse(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=1, **SOON)
    pool.putconn(pool.getconn())
    pool.close()
    admission = inside.admission(pool)
    assert admission is not None
    assert inside.upkeep(admission, time.monotonic() + 100) == float("inf")


def test_a_forked_child_does_not_wait_for_a_lock_of_the_parents(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, **SOON)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        assert inside.admission(pool) is not None
        with inside.lock(inside.peek(inside.admission(pool), "codel")):
            held.set()
            done.wait(PATIENCE)

    def child() -> bool:
        with pool.connection():  # made for one who waits: offered, and so asked about
            pass
        return True

    holder = in_thread(hold)
    assert held.wait(PATIENCE)
    try:
        assert in_child(child)
    finally:
        done.set()
        holder.result(PATIENCE)
