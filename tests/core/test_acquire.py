"""Taking a connection: at once where one is idle, by a deadline where not, with a clear word."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    gave_up_until,
    in_thread,
    lent,
    settled,
    wait_for_waiters,
)
from tests.support.clock import FakeClock
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until


def test_getconn_gives_the_drivers_own_object(pg_pool: MakePool) -> None:
    pool = pg_pool()
    conn = pool.getconn()
    # Of psycopg2's own class, or of one made straight from it: no stand-in, no layer between.
    assert psycopg2.extensions.connection in type(conn).__mro__[:2]
    pool.putconn(conn)
    with pool.connection() as again:
        assert again is conn


def test_the_last_returned_goes_first_by_default(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=3)
    with lent(pool, 3) as taken:
        order = [conn.number for conn in reversed(taken)]  # lent() returns the last one first
    pool.putconn(first := pool.getconn())
    assert first.number == order[-1]
    assert pool.getconn() is first


def test_the_longest_idle_goes_first_with_fifo(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=3, reuse="fifo")
    with lent(pool, 3) as taken:
        order = [conn.number for conn in reversed(taken)]
    numbers = []
    for _ in range(6):
        with pool.connection() as conn:
            numbers.append(conn.number)
    assert numbers == order * 2


def test_one_thread_may_hold_several(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=2)
    with pool.connection() as outer, pool.connection() as inner:
        assert one(outer, "SELECT 1") == one(inner, "SELECT 1") == 1
        assert outer.info.backend_pid != inner.info.backend_pid


def test_callers_that_share_a_pool_never_share_a_connection(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=4)
    holders: dict[int, int] = {}
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(60):
            with pool.connection() as conn:
                if holders.setdefault(id(conn), number) != number:
                    wrong.append(("lent twice", number))
                token = number * 1000 + turn
                if one(conn, "SELECT %s", token) != token:
                    wrong.append(("somebody else's answer", token))
                del holders[id(conn)]

    workers = [in_thread(work, number) for number in range(16)]
    for worker in workers:
        worker.result(PATIENCE)
    assert wrong == []
    expect_full_capacity(pool)
    assert pool.get_stats()["connections_num"] == 4


# The deadline


def test_a_timeout_is_an_error_with_the_numbers(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2, timeout=0.05, name="shop")
    with lent(pool, 2):
        with pytest.raises(PoolTimeout) as caught:
            pool.getconn()
        error = caught.value
        assert error.waited >= 0.05
        assert (error.size, error.in_use, error.waiting) == (2, 2, 0)
        assert error.__cause__ is None
        text = str(error)
        assert "'shop'" in text
        assert "2 of 2 in use" in text
        assert f"{error.waited:.2f} s" in text
        assert "max_size or timeout larger" in text
    expect_full_capacity(pool)


def test_a_timeout_counts_the_others_that_wait(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    with lent(pool, 1):
        others = [in_thread(use, pool) for _ in range(2)]
        wait_for_waiters(pool, 2)
        with pytest.raises(PoolTimeout) as caught:
            pool.getconn(timeout=0.01)
        assert caught.value.waiting == 2
    for other in others:
        other.result(PATIENCE)


@pytest.mark.parametrize("timeout", [0, -1, -0.5])
def test_a_timeout_of_0_or_less_takes_what_is_idle_or_raises_at_once(
    timeout: float, stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeClock().install(monkeypatch)  # who waits puts it on
    pool = stub_pool(max_size=1, background=False)
    with lent(pool, 1) as (conn,):
        with pytest.raises(PoolTimeout) as caught:
            pool.getconn(timeout=timeout)
        assert caught.value.waited == 0
    assert pool.getconn(timeout=timeout) is conn
    pool.putconn(conn)


@pytest.mark.parametrize("background", [True, False])
def test_a_timeout_of_0_does_not_wait_for_a_connect(
    background: bool, stub_pool: MakePool, stub: StubDriver
) -> None:
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    pool = stub_pool(background=background)
    try:
        caller = in_thread(pool.getconn, 0)
        with pytest.raises(PoolTimeout):
            caller.result(PATIENCE)
    finally:
        go.set()
    settled(pool)


def test_the_timeout_of_a_call_overrides_the_pools_both_ways(stub_pool: MakePool) -> None:
    short, long = stub_pool(max_size=1, timeout=0.01), stub_pool(max_size=1, timeout=PATIENCE)
    held = short.getconn(PATIENCE)
    caller = in_thread(short.getconn, timeout=PATIENCE)
    wait_for_waiters(short, 1)
    time.sleep(0.1)  # far beyond the pool's own
    short.putconn(held)
    short.putconn(caller.result(PATIENCE))
    with lent(long, 1), pytest.raises(PoolTimeout):
        long.getconn(timeout=0.01)
    with lent(long, 1), pytest.raises(PoolTimeout):
        with long.connection(timeout=0.01):
            pass


def test_one_deadline_covers_queue_and_checks(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was served late gets no second timeout for the ping or for another try."""
    deadlines: list[float] = []
    usable = inside.original("usable")

    def spied(inspector: Any, held: object, now: float, deadline: float) -> bool:
        deadlines.append(deadline)
        return usable(inspector, held, now, deadline)  # type: ignore[no-any-return]

    pool = stub_pool(max_size=1, validate="ping")
    held = pool.getconn()
    inside.patch(monkeypatch, "usable", spied)
    caller = in_thread(pool.getconn, 20)
    wait_for_waiters(pool, 1)
    latest = time.monotonic() + 20
    time.sleep(0.05)
    pool.putconn(held)
    pool.putconn(caller.result(PATIENCE))
    assert len(deadlines) == 1
    assert deadlines[0] <= latest


def test_who_waits_for_a_good_connection_twice_learns_how_long_in_all(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1, validate="ping", connect_timeout=PATIENCE)
    held = pool.getconn()
    caller = in_thread(pool.getconn, 1.0)
    wait_for_waiters(pool, 1)
    time.sleep(0.5)
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    held.alive = False
    pool.putconn(held)
    with pytest.raises(PoolTimeout) as caught:
        caller.result(PATIENCE)
    go.set()
    assert caught.value.waited >= 1.0


# The queue's limit


def test_beyond_max_waiting_callers_are_refused_at_once(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, max_waiting=2, name="shop")
    with lent(pool, 1):
        waiting = [in_thread(use, pool) for _ in range(2)]
        wait_for_waiters(pool, 2)
        refused = in_thread(pool.getconn, 10 * PATIENCE)
        with pytest.raises(TooManyRequests) as caught:
            refused.result(PATIENCE)
        text = str(caught.value)
        assert "'shop'" in text
        assert "2 callers" in text
        assert "max_waiting=2" in text
    for caller in waiting:
        caller.result(PATIENCE)
    expect_full_capacity(pool)


def test_the_limit_does_not_count_those_that_gave_up(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, max_waiting=2)
    with lent(pool, 1):
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.01)
        assert pool.get_stats()["requests_waiting"] == 0
        waiting = [in_thread(use, pool) for _ in range(2)]
        wait_for_waiters(pool, 2)
    for caller in waiting:
        caller.result(PATIENCE)


def test_the_limit_does_not_count_those_that_have_been_answered(stub_pool: MakePool) -> None:
    """Whoever serves a caller takes it off the queue after: for long, on a busy machine."""
    pool = stub_pool(max_size=1, max_waiting=1)
    with lent(pool, 1):
        wait_for_waiters(pool, 0)
        served = inside.Waiter(time.monotonic())
        served.deliver("a connection")
        inside.waiters(pool).append(served)
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.01)
        inside.waiters(pool).remove(served)


def test_no_limit_by_default(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    with lent(pool, 1):
        callers = [in_thread(use, pool) for _ in range(60)]
        wait_for_waiters(pool, 60)
    for caller in callers:
        caller.result(PATIENCE)


def use(pool: ConnectionPool) -> None:
    with pool.connection(PATIENCE):
        pass


# Not open


def test_a_pool_not_opened_yet_says_so(stub_pool: MakePool) -> None:
    pool = stub_pool(open=False)
    assert pool.closed
    for call in (pool.getconn, pool.wait, lambda: pool.getconn(timeout=0)):
        with pytest.raises(PoolClosed, match=r"not open yet: call open\(\)"):
            call()
    pool.open()
    assert not pool.closed
    expect_full_capacity(pool)
    pool.open()
    expect_full_capacity(pool)


def test_the_cause_of_a_timeout_is_the_last_connect_error(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    errors = [StubError("first"), StubError("second")]

    def fail(_: object) -> None:
        raise errors[0] if len(errors) == 1 else errors.pop(0)

    stub.hooks["connect"] = fail
    pool = stub_pool()
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=2)
    assert caught.value.__cause__ is errors[0]
    assert str(caught.value.__cause__) == "second"
    assert "connecting fails (connect_failed)" in str(caught.value)
    del stub.hooks["connect"]
    expect_full_capacity(pool)


def test_connecting_that_takes_too_long_is_told_apart_from_a_full_pool(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    pool = stub_pool()
    gave_up_until(lambda: len(inside.attempts(pool)) > 0, pool)
    with pytest.raises(PoolTimeout, match="connecting takes too long") as caught:
        pool.getconn(timeout=0.05)
    assert (caught.value.size, caught.value.in_use) == (0, 0)
    go.set()
    wait_until(lambda: pool.get_stats()["pool_available"], PATIENCE, "what came late is kept")
    expect_full_capacity(pool)


@pytest.mark.parametrize("background", [True, False])
def test_who_does_not_wait_is_not_told_that_the_database_is_ill(
    background: bool, stub_pool: MakePool, stub: StubDriver
) -> None:
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    with pytest.raises(PoolTimeout, match="none is idle") as caught:
        stub_pool(background=background).getconn(timeout=0)
    go.set()
    assert "database" not in str(caught.value)
