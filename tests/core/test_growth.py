"""Growing: few connects, never too many at once, and what happens when they are slow or fail."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from dbpool import ConnectFailed, ConnectionPool, Misconfigured, PoolClosed, PoolTimeout
from testproject.postgres import PostgresServer
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
from tests.support.gate import Gate
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import one, terminate
from tests.support.stub_driver import StubConnection, StubDriver, StubError
from tests.support.waiting import wait_until


def use(pool: ConnectionPool, seconds: float = 0.0) -> None:
    with pool.connection(PATIENCE):
        time.sleep(seconds)


def one_lent(stub_pool: MakePool, **options: Any) -> tuple[ConnectionPool, StubConnection]:
    """Return a pool of exactly one connection, which is lent, with room for nine more."""
    pool = stub_pool(max_size=1, **options)
    held: StubConnection = pool.getconn(PATIENCE)
    pool.resize(0, 10)
    return pool, held


# How many, and for whom


def test_a_caller_does_not_wait_for_its_own_connect_when_somebody_returns_earlier(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool, held = one_lent(stub_pool)
    gate = Gate(stub)
    caller = in_thread(pool.getconn, PATIENCE)
    wait_until(lambda: gate.inside == 1, PATIENCE, "a connect is started for the caller")
    pool.putconn(held)
    assert caller.result(PATIENCE) is held
    assert gate.inside == 1
    gate.open()
    wait_until(lambda: pool.get_stats()["pool_available"] == 1, PATIENCE, "the new one is kept")
    pool.putconn(held)
    expect_full_capacity(pool)


def test_a_new_connection_serves_the_oldest_waiter_whoever_asked_for_it(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    go = threading.Semaphore(0)
    stub.hooks["connect"] = lambda _: go.acquire(timeout=PATIENCE)
    pool = stub_pool(max_size=5, max_connecting=1)
    order: list[int] = []

    def ask(number: int) -> Any:
        conn = pool.getconn(PATIENCE)
        order.append(number)
        return conn

    callers = []
    for number in range(3):
        callers.append(in_thread(ask, number))
        wait_for_waiters(pool, number + 1)
    for number in range(3):
        go.release()
        wait_until(lambda number=number: len(order) > number, PATIENCE)
    assert order == [0, 1, 2]
    for caller in callers:
        pool.putconn(caller.result(PATIENCE))


def test_one_caller_opens_one_connection(stub_pool: MakePool, stub: StubDriver) -> None:
    for _ in range(30):
        pool = stub_pool()
        use(pool)
        settled(pool)
    assert len(stub.made) == 30, "what is being handed to a caller counts as wanted still"


def test_a_connection_on_its_way_to_a_caller_is_all_that_the_caller_asks_for(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go = threading.Event(), threading.Event()

    def offer_late(queue: Any, held: Any) -> None:
        arrived.set()
        go.wait(PATIENCE)
        offer(queue, held)

    offer = inside.original("offer")
    inside.patch(monkeypatch, "offer", offer_late)
    pool = stub_pool(max_connecting=1)
    caller = in_thread(use, pool)
    assert arrived.wait(PATIENCE)
    wait_for_waiters(pool, 1)
    inside.start_connectors(pool)
    assert pool.get_stats()["pool_size"] == 1
    other = in_thread(use, pool)  # and the next one asks for another
    wait_for_waiters(pool, 2)
    inside.start_connectors(pool)
    assert pool.get_stats()["pool_size"] == 2
    go.set()
    caller.result(PATIENCE)
    other.result(PATIENCE)
    settled(pool)
    assert len(stub.made) == 2


@pytest.mark.parametrize(("minimum", "waiting", "wanted"), [(1, 1, 1), (2, 3, 3), (3, 1, 3)])
def test_what_a_caller_gets_counts_towards_the_minimum(
    minimum: int, waiting: int, wanted: int, stub_pool: MakePool, gate: Gate
) -> None:
    """Whoever asks a pool that fills is served by what fills it."""
    pool = stub_pool(min_size=minimum, max_size=10, max_connecting=10)
    callers = [in_thread(use, pool) for _ in range(waiting)]
    wait_for_waiters(pool, waiting)
    inside.start_connectors(pool)  # returns once all that is wanted is under way
    assert len(inside.attempts(pool)) == wanted
    gate.open()
    for caller in callers:
        caller.result(PATIENCE)
    settled(pool)
    assert pool.get_stats()["pool_size"] == wanted


@pytest.mark.parametrize("max_connecting", [1, 2, 5])
def test_no_more_connects_at_once_than_max_connecting(
    max_connecting: int, stub_pool: MakePool, gate: Gate
) -> None:
    pool = stub_pool(max_size=20, max_connecting=max_connecting)
    callers = [in_thread(use, pool, 0.01) for _ in range(20)]
    wait_until(lambda: gate.inside == max_connecting, PATIENCE, "as many as allowed connect")
    time.sleep(0.1)  # four times the pool's patience with a slow one
    assert gate.inside == max_connecting
    gate.open()
    for caller in callers:
        caller.result(PATIENCE)
    assert gate.most == max_connecting
    expect_full_capacity(pool)


def test_never_more_open_than_max_size(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool(max_size=3, max_connecting=3, name="at most three")
    end, most = threading.Event(), [0]

    def watch() -> None:
        while not end.is_set():
            most[0] = max(most[0], count_sessions(postgres, "dbpool:at most three"))

    watcher = in_thread(watch)
    callers = [in_thread(lambda: [use(pool, 0.002) for _ in range(40)]) for _ in range(12)]
    for caller in callers:
        caller.result(PATIENCE)
    end.set()
    watcher.result(PATIENCE)
    assert 1 <= most[0] <= 3
    expect_full_capacity(pool)


def test_never_more_open_at_the_driver_than_max_size(stub_pool: MakePool, stub: StubDriver) -> None:
    most = [0]

    def count(_: object) -> None:
        most[0] = max(most[0], stub.open_connections + 1)

    stub.hooks["connect"] = count
    pool = stub_pool(max_size=3, max_connecting=1, max_lifetime=0.01)

    def work() -> None:
        while len(stub.made) <= 20:
            use(pool, 0.001)

    callers = [in_thread(work) for _ in range(8)]
    for caller in callers:
        caller.result(PATIENCE)
    assert most[0] <= 3
    expect_full_capacity(pool)


def test_a_burst_of_50_callers_over_2_ms_of_work_opens_few(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """A connect takes as long as 25 pieces of the work, however slow the machine makes both."""
    done = threading.Condition()
    pieces = [0]

    def work() -> None:
        with pool.connection(PATIENCE):
            time.sleep(0.002)
        with done:
            pieces[0] += 1
            done.notify_all()

    def connect(_: object) -> None:
        with done:
            until = pieces[0] + 25
            first = not inside.entries(pool)
            done.wait_for(lambda: first or pieces[0] >= min(until, 50), PATIENCE)

    stub.hooks["connect"] = connect
    pool = stub_pool(max_size=50)
    callers = [in_thread(work) for _ in range(50)]
    for caller in callers:
        caller.result(PATIENCE)
    settled(pool)
    assert len(stub.made) <= 8


def test_while_connections_circulate_one_connect_is_under_way_not_two(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    clock.install(monkeypatch)  # no caller comes to wait for long, however busy the machine is
    pool = stub_pool(max_size=50, max_connecting=4)
    with lent(pool, 5):
        pass
    gate = Gate(stub)
    try:
        held = [pool.getconn() for _ in range(5)]
        burst = [in_thread(use, pool) for _ in range(45)]
        wait_for_waiters(pool, 45)
        for conn in held:  # now they circulate, each handed on dozens of times
            pool.putconn(conn)
        for caller in burst:
            caller.result(PATIENCE)
        assert gate.most == 1
    finally:
        gate.open()
    settled(pool)
    assert len(stub.made) <= 6


def test_a_burst_over_idle_connections_starts_no_more_than_max_connecting(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """The spike known from psycopg_pool: a connect takes 75 times as long as the work."""
    pool = stub_pool(max_size=10)
    with lent(pool, 5):
        pass
    gate = Gate(stub)
    callers = [in_thread(use, pool, 0.002) for _ in range(50)]
    for caller in callers:
        caller.result(PATIENCE)
    assert gate.started <= 2
    gate.open()
    settled(pool)
    assert len(stub.made) < 5 + 3


def test_demand_that_was_served_meanwhile_opens_nothing_more(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool, held = one_lent(stub_pool, max_connecting=1)
    gate = Gate(stub)
    callers = [in_thread(use, pool) for _ in range(8)]
    wait_until(lambda: gate.inside == 1, PATIENCE)
    wait_for_waiters(pool, 8)
    pool.putconn(held)
    for caller in callers:
        caller.result(PATIENCE)
    gate.open()
    settled(pool)
    assert gate.started == 1
    assert len(stub.made) == 2


def test_the_minimum_is_filled_without_a_caller(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(min_size=3, max_size=5)
    wait_until(lambda: pool.get_stats()["pool_available"] == 3, PATIENCE, "min_size are open")
    settled(pool)
    assert len(stub.made) == 3


def test_wait_returns_when_the_minimum_is_open(stub_pool: MakePool, gate: Gate) -> None:
    pool = stub_pool(min_size=2, max_size=4)
    waiting = [in_thread(pool.wait, PATIENCE) for _ in range(2)]
    wait_until(lambda: gate.inside == 2, PATIENCE)
    assert not any(caller.done() for caller in waiting)
    gate.open()
    for caller in waiting:
        assert caller.result(PATIENCE) is None
    assert pool.get_stats()["pool_size"] == 2
    pool.wait(timeout=0)
    pool.open(wait=True, timeout=0)


def test_open_with_wait_returns_a_filled_pool(stub_pool: MakePool) -> None:
    for background in (True, False):
        pool = stub_pool(min_size=3, max_size=3, open=False, background=background)
        pool.open(wait=True, timeout=PATIENCE)
        assert pool.get_stats()["pool_available"] == 3


def test_waiting_in_vain_raises_with_the_numbers_and_the_cause_and_closes(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    stub.hooks["connect"] = raising(StubError("connect_refused"))
    pool = stub_pool(min_size=2, open=False, name="shop")
    with pytest.raises(PoolTimeout) as caught:
        pool.open(wait=True, timeout=0.3)
    text = str(caught.value)
    assert "'shop'" in text
    assert "0 of min_size=2" in text
    assert "connect_refused" in text
    assert isinstance(caught.value.__cause__, StubError)
    assert (caught.value.size, caught.value.waited >= 0.3) == (0, True)
    assert pool.closed
    with pytest.raises(PoolClosed):
        pool.wait(1)


def test_waiting_for_what_no_retry_mends_ends_at_once(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    stub.hooks["connect"] = raising(StubError("auth"))
    pool = stub_pool(min_size=2, open=False)
    with pytest.raises(ConnectFailed) as caught:
        pool.open(wait=True, timeout=10 * PATIENCE)
    assert caught.value.reason == "auth"


def raising(error: BaseException) -> Callable[[object], object]:
    def fail(_: object) -> None:
        raise error

    return fail


# Without a thread


def test_where_no_thread_can_be_started_the_caller_connects_itself(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    stub.hooks["connect"] = lambda _: threads.append(threading.current_thread().name)
    pool = stub_pool(max_size=3)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        taken = [pool.getconn() for _ in range(3)]
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        for conn in taken:
            pool.putconn(conn)
    assert threads == [threading.current_thread().name] * 3
    expect_full_capacity(pool)


def test_a_second_connect_joins_the_first_when_a_burst_would_be_over(
    stub_pool: MakePool, gate: Gate
) -> None:
    gate.open()
    pool, held = one_lent(stub_pool, connect_timeout=10_000.0)
    gate.shut()
    inside.outage(pool).retry_at = math.inf  # until all of them wait
    callers = [in_thread(use, pool) for _ in range(2)]
    wait_for_waiters(pool, 2)
    then = time.monotonic() + 3600.0  # by a clock of its own: till then nobody waits for long
    for waiter in list(inside.waiters(pool)):
        waiter.since = then
    inside.outage(pool).retry_at = 0.0
    inside.start_connectors(pool)
    assert len(inside.attempts(pool)) == 1
    assert not inside.wanted(pool, then + 0.02)
    assert inside.wanted(pool, then + 0.03)
    gate.open()
    pool.putconn(held)
    for caller in callers:
        caller.result(PATIENCE)


# Slow and hanging connects


def test_a_slow_connect_costs_the_one_who_gave_up_no_slot(
    stub_pool: MakePool, gate: Gate, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1)
    gave_up_until(lambda: gate.started == 1, pool)
    for _ in range(3):
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.02)
    assert gate.started == 1
    assert pool.get_stats()["pool_size"] == 1
    gate.open()
    expect_full_capacity(pool)
    assert len(stub.made) == 1


@pytest.fixture
def short_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a connect up at its timeout, and try in spite of those that hang after ages only."""
    inside.patch(monkeypatch, "STUCK_LONGER", 1000.0)
    inside.patch(monkeypatch, "OVERRUN", 0.0)


@pytest.mark.usefixtures("short_overrun")
def test_a_hanging_connect_is_replaced_but_no_more_than_two_at_once_and_keeps_its_slot(
    stub_pool: MakePool, gate: Gate
) -> None:
    pool = stub_pool(max_size=10, max_connecting=1, connect_timeout=0.1, down_wait=PATIENCE)
    caller = in_thread(use, pool)
    wait_until(lambda: gate.inside == 3, PATIENCE, "two hanging ones are replaced")
    wait_until(
        lambda: all(each.overdue_at < time.monotonic() for each in inside.attempts(pool)), PATIENCE
    )
    assert not inside.wanted(pool, time.monotonic())
    assert gate.inside == 3
    assert pool.get_stats()["pool_size"] == 3
    gate.open()
    caller.result(PATIENCE)
    expect_full_capacity(pool)


@pytest.mark.usefixtures("short_overrun")
@pytest.mark.parametrize("end", ["fails", "arrives"])
def test_growth_goes_on_when_one_of_three_hanging_connects_ends(
    end: str, stub_pool: MakePool, stub: StubDriver
) -> None:
    """At most two are replaced at once; each frees its place when its thread ends."""
    go = threading.Semaphore(0)
    entered: list[int] = []

    def hang(_: object) -> None:
        entered.append(1)
        if len(entered) <= 3:
            go.acquire(timeout=PATIENCE)
            if end == "fails":
                raise StubError("connect_timeout")

    stub.hooks["connect"] = hang
    pool = stub_pool(max_size=10, max_connecting=1, connect_timeout=0.1, down_wait=PATIENCE)
    caller = in_thread(use, pool)
    wait_until(lambda: len(entered) == 3, PATIENCE, "two hanging ones are replaced")
    wait_until(
        lambda: all(a.overdue_at < time.monotonic() for a in inside.attempts(pool)), PATIENCE
    )
    assert not caller.done()
    assert len(entered) == 3
    inside.put(
        pool, connect_timeout=PATIENCE
    )  # the fourth is not late, however busy the machine is
    go.release()
    caller.result(PATIENCE)
    assert len(entered) == 4
    assert len(inside.attempts(pool)) == 2, "those that hang still have their places"
    go.release(2)
    expect_full_capacity(pool)


@pytest.mark.usefixtures("short_overrun")
def test_a_connection_that_comes_too_late_is_closed_on_arrival(
    stub_pool: MakePool, gate: Gate, stub: StubDriver
) -> None:
    closed: list[int] = []
    stub.hooks["close"] = lambda conn: closed.append(conn.number)
    pool = stub_pool(max_size=1, connect_timeout=0.05)
    gave_up_until(lambda: gate.inside == 1, pool)
    wait_until(
        lambda: all(a.overdue_at < time.monotonic() for a in inside.attempts(pool)), PATIENCE
    )
    late = len(inside.attempts(pool))  # one, or more where a busy machine made the caller ask again
    gate.open()
    settled(pool)
    stats = pool.get_stats()
    assert len(closed) >= late >= 1
    assert stats["pool_size"] == stats["connections_num"] - len(closed)
    expect_full_capacity(pool)


def test_connecting_to_a_server_that_does_not_answer_ends_by_connect_timeout(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(), connect_timeout=2)
    breakable_postgres.freeze()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.1)
    wait_until(lambda: inside.outage(pool).failure, PATIENCE, "the connect is given up")
    assert inside.outage(pool).failure is not None
    assert inside.outage(pool).failure.reason == "connect_timeout"
    breakable_postgres.thaw()
    expect_full_capacity(pool)


# Failing connects


def test_a_failed_connect_is_tried_again_until_it_succeeds(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    tries: list[float] = []

    def twice(_: object) -> None:
        tries.append(time.monotonic())
        if len(tries) <= 2:
            raise StubError("connect_refused")

    stub.hooks["connect"] = twice
    pool = stub_pool(max_size=3, down_wait=PATIENCE)
    callers = [in_thread(use, pool) for _ in range(5)]
    for caller in callers:
        caller.result(PATIENCE)
    assert len(tries) >= 3
    assert tries[1] - tries[0] >= 0.1 or tries[2] - tries[0] >= 0.1
    assert inside.outage(pool).failure is None
    expect_full_capacity(pool)


@pytest.mark.parametrize("background", [True, False])
def test_failing_connects_are_spaced_out(
    background: bool, stub_pool: MakePool, stub: StubDriver
) -> None:
    tries: list[float] = []

    def fail(_: object) -> None:
        tries.append(time.monotonic())
        raise StubError("connect_refused")

    stub.hooks["connect"] = fail
    pool = stub_pool(max_size=5, max_connecting=1, background=background)
    callers = [in_thread(pool.getconn, 1.0) for _ in range(5)]
    for caller in callers:
        with pytest.raises(PoolTimeout) as caught:
            caller.result(PATIENCE)
        assert isinstance(caught.value.__cause__, StubError)
    assert 2 <= len(tries) <= 10
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(tries))


def test_the_pauses_between_failing_connects_grow_to_a_limit_and_vary() -> None:
    failure = inside.Failure(StubError("refused"), "connect_refused")
    pauses: list[list[float]] = []
    for seed in range(50):
        random.seed(seed)
        outage = inside.outage_alone()
        pauses.append([])
        for _ in range(12):
            outage.put_off(1000.0, failure)
            pauses[-1].append(outage.retry_at - 1000.0)
        outage.connects_well()
        assert outage.retry_at == 0.0
        outage.put_off(2000.0, failure)
        assert outage.retry_at - 2000.0 < 0.2, "an outage begins with a short pause"
    for row in pauses:
        assert 0.1 <= row[0] <= 0.2
        assert max(row) <= 5.0
        assert row[-1] >= 1.0
    assert len({round(row[0], 4) for row in pauses}) > 25, "no jitter"
    assert len({round(row[-1], 4) for row in pauses}) > 25, "no jitter"


@pytest.mark.parametrize("waiting", [1, 6])
def test_an_error_that_no_retry_mends_reaches_all_waiters_at_once(
    waiting: int, stub_pool: MakePool, stub: StubDriver
) -> None:
    go = threading.Event()

    def refuse(_: object) -> None:
        go.wait(PATIENCE)
        raise StubError("auth")

    stub.hooks["connect"] = refuse
    pool = stub_pool(max_size=10, max_connecting=1)
    callers = [in_thread(pool.getconn, 100 * PATIENCE) for _ in range(waiting)]
    wait_for_waiters(pool, waiting)
    go.set()
    for caller in callers:
        with pytest.raises(ConnectFailed) as caught:
            caller.result(PATIENCE)
        assert caught.value.reason == "auth"
        assert isinstance(caught.value.__cause__, StubError)
    assert len({id(caller.exception()) for caller in callers}) == waiting
    del stub.hooks["connect"]
    wait_until(lambda: time.monotonic() > inside.outage(pool).retry_at, PATIENCE)
    expect_full_capacity(pool)


def test_an_unknown_database_and_a_wrong_role_are_such_errors(
    postgres: Postgres, new_pool: MakePool
) -> None:
    for conninfo, reason in (
        (postgres.dsn(dbname="no such database"), "unknown_database"),
        (postgres.dsn(user="nobody that is known"), "auth"),
    ):
        pool = new_pool(conninfo)
        with pytest.raises(ConnectFailed) as caught:
            pool.getconn(timeout=10 * PATIENCE)
        assert caught.value.reason == reason
        assert "trying again will not help" in str(caught.value)


def test_a_wrong_password_is_such_an_error(
    scram_postgres: PostgresServer, new_pool: MakePool
) -> None:
    for password in ("wrong", ""):
        pool = new_pool(scram_postgres.dsn(password=password))
        with pytest.raises(ConnectFailed) as caught:
            pool.getconn(timeout=10 * PATIENCE)
        assert caught.value.reason == "auth"


def test_a_server_that_is_down_is_waited_for(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    breakable_postgres.stop("immediate")
    pool = new_pool(breakable_postgres.dsn(), min_size=1, max_size=3, down_wait=PATIENCE)
    callers = [in_thread(use, pool) for _ in range(4)]
    wait_until(lambda: inside.outage(pool).failure, PATIENCE, "connecting fails")
    assert inside.outage(pool).failure is not None
    assert inside.outage(pool).failure.reason == "connect_refused"
    with pytest.raises(PoolTimeout, match="connecting fails") as caught:
        pool.getconn(timeout=0.01)
    assert caught.value.__cause__ is not None
    breakable_postgres.start()
    for caller in callers:
        caller.result(PATIENCE)
    expect_full_capacity(pool)


def test_a_failing_server_is_logged_once_per_outage(
    stub_pool: MakePool, stub: StubDriver, caplog: pytest.LogCaptureFixture
) -> None:
    stub.hooks["connect"] = raising(StubError("connect_refused"))
    pool = stub_pool(max_connecting=1)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.7)
    assert pool.get_stats()["connections_errors"] >= 2
    assert [r.getMessage() for r in caplog.records if "cannot connect" in r.getMessage()] == [
        f"pool {pool.name!r} is down, it cannot connect: connect_refused (StubError); 0 open"
    ]


# Given up


def fast_backoff(pool: ConnectionPool) -> None:
    inside.outage(pool).lowest = inside.outage(pool).highest = 0.02  # type: ignore[misc]


def test_reconnect_failed_is_called_once_per_outage_and_the_pool_goes_on(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    called: list[ConnectionPool] = []
    pool = stub_pool(
        max_size=1, max_connecting=1, reconnect_timeout=0.15, reconnect_failed=called.append
    )
    fast_backoff(pool)
    for outage in (1, 2):
        stub.hooks["connect"] = raising(StubError("connect_refused"))
        for _ in range(4):
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.2)
        assert called == [pool] * outage
        del stub.hooks["connect"]
        expect_full_capacity(pool)
        with pool.connection() as conn:
            conn.alive = False
        pool.check()


def test_after_reconnect_timeout_the_minimum_is_not_tried_for_until_somebody_asks(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    tries: list[float] = []

    def fail(_: object) -> None:
        tries.append(time.monotonic())
        raise StubError("connect_refused")

    stub.hooks["connect"] = fail
    given_up = threading.Event()
    pool = stub_pool(
        min_size=1,
        max_connecting=1,
        reconnect_timeout=0.1,
        reconnect_failed=lambda pool: given_up.set(),
        open=False,
    )
    fast_backoff(pool)
    pool.open()
    assert given_up.wait(PATIENCE)
    settled(pool)
    before = len(tries)
    assert not inside.wanted(pool, time.monotonic() + 3600.0), "whatever the pause"
    inside.upkeep(pool, time.monotonic() + 3600.0)
    settled(pool)
    assert len(tries) == before
    del stub.hooks["connect"]
    use(pool)
    assert pool.get_stats()["pool_size"] == 1


def test_check_goes_on_with_what_was_given_up(stub_pool: MakePool, stub: StubDriver) -> None:
    stub.hooks["connect"] = raising(StubError("connect_refused"))
    given_up = threading.Event()
    pool = stub_pool(
        min_size=2,
        reconnect_timeout=0.1,
        reconnect_failed=lambda pool: given_up.set(),
        open=False,
    )
    fast_backoff(pool)
    pool.open()
    assert given_up.wait(PATIENCE)
    del stub.hooks["connect"]
    pool.check()
    wait_until(lambda: pool.get_stats()["pool_available"] == 2, PATIENCE, "it fills again")


@pytest.mark.parametrize("background", [True, False])
def test_a_reconnect_failed_that_raises_harms_nothing(
    background: bool,
    stub_pool: MakePool,
    stub: StubDriver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stub.hooks["connect"] = raising(StubError("connect_refused"))
    called: list[object] = []

    def bad(pool: ConnectionPool) -> None:
        called.append(pool)
        raise ZeroDivisionError("the pager is broken")

    pool = stub_pool(reconnect_timeout=0.05, reconnect_failed=bad, background=background)
    fast_backoff(pool)

    def failed_for_long() -> list[object]:
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.05)
        return called

    wait_until(failed_for_long, PATIENCE)
    assert called == [pool]
    wait_until(lambda: "the pager is broken" in caplog.text, PATIENCE)
    del stub.hooks["connect"]
    expect_full_capacity(pool)


# configure


def test_configure_is_called_once_per_connection(pg_pool: MakePool) -> None:
    configured: list[int] = []

    def configure(conn: Any) -> None:
        configured.append(conn.info.backend_pid)
        conn.autocommit = True
        one(conn, "SELECT set_config('search_path', 'shop', false)")

    pool = pg_pool(configure=configure, max_size=2)
    for _ in range(3):
        with lent(pool, 2) as taken:
            assert all(conn.autocommit for conn in taken)
            assert [one(conn, "SHOW search_path") for conn in taken] == ["shop"] * 2
            assert sorted(configured) == sorted(conn.info.backend_pid for conn in taken)


def test_a_failing_configure_is_tried_again_and_is_the_cause(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    mended = False

    def configure(conn: object) -> None:
        if not mended:
            raise KeyError("no such role")

    pool = stub_pool(configure=configure, max_size=1)
    with pytest.raises(Misconfigured) as caught:
        pool.getconn(PATIENCE)
    assert isinstance(caught.value.__cause__, KeyError)
    mended = True
    wait_until(lambda: serves(pool), PATIENCE)
    expect_full_capacity(pool)
    assert stub.open_connections == 1, "one whose configure failed was not closed"


def serves(pool: ConnectionPool) -> bool:
    """Return whether a caller is served; one that comes in the pause after a failure is not."""
    try:
        pool.putconn(pool.getconn(PATIENCE))
    except Misconfigured:
        return False
    return True


def test_a_configure_that_leaves_a_transaction_is_the_cause_and_says_what_to_do(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(configure=lambda conn: one(conn, "SELECT 1"), name="left open")
    with pytest.raises(Misconfigured, match="commit there, or set autocommit") as caught:
        pool.getconn(PATIENCE)
    assert "configure left a connection" in str(caught.value.__cause__)
    wait_until(lambda: count_sessions(postgres, "dbpool:left open") == 0, PATIENCE)


def test_a_configure_that_closes_the_connection_is_not_told_of_a_transaction(
    pg_pool: MakePool,
) -> None:
    pool = pg_pool(configure=lambda conn: conn.close())
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0.5)
    assert "closed" in str(caught.value.__cause__)
    assert "transaction" not in str(caught.value.__cause__)


class Interrupted(BaseException):
    """Neither driver nor user meant it."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [Interrupted, GeneratorExit, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["connect", "configure"])
def test_an_interrupted_connect_costs_no_slot(
    error: type[BaseException], where: str, stub_pool: MakePool, stub: StubDriver
) -> None:
    errors = [error(), error(), error()]

    def fail(_: object) -> None:
        if errors:
            raise errors.pop()

    options: dict[str, Any] = {}
    if where == "connect":
        stub.hooks["connect"] = fail
    else:
        options["configure"] = fail
    pool = stub_pool(max_size=2, **options)
    wait_until(lambda: serves(pool) and errors == [], PATIENCE)
    expect_full_capacity(pool)
    assert stub.open_connections == 2


@pytest.mark.parametrize("background", [True, False])
def test_a_configure_that_exits_is_logged_and_tried_ever_less_often(
    background: bool, stub_pool: MakePool, stub: StubDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread ends by SystemExit without a word: sys.exit() in it would be a silent storm."""
    tries: list[float] = []

    def configure(conn: object) -> None:
        tries.append(time.monotonic())
        raise SystemExit(3)

    pool = stub_pool(max_connecting=1, configure=configure, background=background)
    if background:
        with pytest.raises(Misconfigured, match="configure raised SystemExit") as caught:
            pool.getconn(PATIENCE)
        assert isinstance(caught.value.__cause__, SystemExit)
    else:
        with pytest.raises(SystemExit):
            pool.getconn(PATIENCE)
    assert "cannot connect: configure raised SystemExit" in caplog.text

    def asked_again() -> bool:
        with pytest.raises((Misconfigured, SystemExit)):
            pool.getconn(timeout=0.02)
        return len(tries) >= 3

    wait_until(asked_again, PATIENCE)
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(tries))
    assert stub.open_connections == 0


def test_a_waiter_sleeps_while_others_connect(
    stub_pool: MakePool, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    wait = inside.Waiter.wait

    def counted(waiter: Any, seconds: float) -> bool:
        naps.append(seconds)
        return wait(waiter, seconds)

    inside.patch(monkeypatch, "Waiter.wait", counted)
    pool = stub_pool(max_size=9)
    callers = [in_thread(use, pool) for _ in range(4)]
    wait_until(lambda: gate.inside == 2, PATIENCE, "both connects are under way")
    wait_until(lambda: pool.get_stats()["oldest_wait"] > 0.5, PATIENCE)
    elapsed = pool.get_stats()["oldest_wait"]
    assert len(naps) <= 4 * (3 + elapsed / inside.MAX_NAP)
    gate.open()
    for caller in callers:
        caller.result(PATIENCE)
    expect_full_capacity(pool)


# resize and connects under way


def test_a_connection_that_resize_has_made_superfluous_is_closed_on_arrival(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool, held = one_lent(stub_pool)
    gate = Gate(stub)
    callers = [in_thread(use, pool) for _ in range(5)]
    wait_until(lambda: gate.inside == 2, PATIENCE)
    pool.resize(0, 1)
    gate.open()
    wait_until(lambda: not inside.attempts(pool), PATIENCE)
    assert pool.get_stats()["pool_size"] == 1
    pool.putconn(held)
    for caller in callers:
        caller.result(PATIENCE)
    expect_full_capacity(pool)


def test_resize_upwards_serves_those_that_wait(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    with lent(pool, 1):
        callers = [in_thread(pool.getconn, PATIENCE) for _ in range(2)]
        wait_for_waiters(pool, 2)
        pool.resize(0, 3)
        for caller in callers:
            pool.putconn(caller.result(PATIENCE))
    expect_full_capacity(pool)


@contextmanager
def busy(pool: ConnectionPool, threads: int) -> Iterator[None]:
    """Callers that want connections all the time."""
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            use(pool, 0.0005)

    workers = [in_thread(work) for _ in range(threads)]
    try:
        yield
    finally:
        end.set()
        for worker in workers:
            worker.result(PATIENCE)


def test_resize_down_and_up_under_load_keeps_to_the_size(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    stub.hooks["connect"] = lambda _: time.sleep(0.002)
    pool = stub_pool(max_size=6)
    with busy(pool, 10):
        for size in (1, 6, 2, 5, 1, 6) * 2:
            pool.resize(0, size)
            wait_until(lambda size=size: pool.get_stats()["pool_size"] <= size, PATIENCE)
            time.sleep(0.01)
        pool.resize(0, 2)
        wait_until(lambda: pool.get_stats()["pool_size"] <= 2, PATIENCE)
        for _ in range(20):
            assert stub.open_connections <= 2
            time.sleep(0.001)
    expect_full_capacity(pool)


def test_the_minimum_is_kept_when_sessions_end(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool(min_size=2, max_size=4)
    pool.wait(PATIENCE)
    with lent(pool, 2) as taken:
        pids = [conn.info.backend_pid for conn in taken]
    terminate(postgres, *pids)
    use(pool)  # finds one dead: the keeper looks at the others and fills up

    def renewed() -> bool:
        stats = pool.get_stats()
        return bool(stats["pool_available"] == 2 and stats["connections_lost"] == 2)

    wait_until(renewed, PATIENCE, lambda: f"two new ones: {pool.get_stats()}")
    with lent(pool, 2) as taken:
        assert not set(pids) & {conn.info.backend_pid for conn in taken}


def test_an_unrelated_status_of_a_new_connection_is_no_reason_to_hang(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """A configure that closes the connection is a failed connect."""

    def configure(conn: StubConnection) -> None:
        conn.closed = True

    pool = stub_pool(configure=configure)
    gave_up_until(lambda: inside.outage(pool).failure is not None, pool)
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0.02)
    assert caught.value.__cause__ is not None
