"""How long a connection lives: spread, renewed in time, kept to the sizes, never served past it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    settled,
    wait_for_waiters,
)
from tests.support.gate import Gate
from tests.support.servers import Postgres, count_sessions
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until


def use(pool: ConnectionPool) -> int:
    with pool.connection(PATIENCE) as conn:
        return int(conn.number)


def age(pool: ConnectionPool, seconds: float) -> None:
    """Let time pass for what is open: it was born, and last used, so much earlier."""
    with inside.lock(pool):
        for entry in inside.entries(pool):
            entry.born -= seconds
            entry.since -= seconds
            entry.proved_at -= seconds
            entry.expires_at -= seconds
            entry.good_until -= seconds
            entry.renew_at -= seconds


def upkeep(pool: ConnectionPool) -> None:
    """What the keeper does when it is due."""
    inside.upkeep(pool, time.monotonic())
    settled(pool)


def available(pool: ConnectionPool) -> int:
    return int(pool.get_stats()["pool_available"])


# max_lifetime


def test_lives_are_spread_over_a_quarter_so_that_they_do_not_end_together(
    stub_pool: MakePool,
) -> None:
    pool = stub_pool(max_size=100, max_connecting=50, max_lifetime=1000)
    with lent(pool, 100):
        lives = sorted(entry.expires_at - entry.born for entry in inside.entries(pool))
    assert 750 <= lives[0] < 800
    assert 950 < lives[-1] <= 1000
    fifths = [sum(750 + 50 * n <= life < 800 + 50 * n for life in lives) for n in range(5)]
    assert min(fifths) >= 2, f"not spread: {fifths}"


def test_an_idle_one_past_its_end_is_not_served(stub_pool: MakePool) -> None:
    for validate in ("poll", "ping", "off"):
        pool = stub_pool(max_size=1, max_lifetime=100, validate=validate, validate_after=1e6)
        first = use(pool)
        age(pool, 101)
        assert use(pool) != first
        assert pool.get_stats()["connections_closed"] == {"max_lifetime": 1}
        expect_full_capacity(pool)


@pytest.mark.parametrize("validate", ["poll", "ping", "off"])
def test_one_that_comes_back_past_its_end_is_closed_and_replaced(
    validate: str, stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1, max_lifetime=100, validate=validate)
    conn = pool.getconn()
    age(pool, 101)
    pool.putconn(conn)
    assert conn.closed
    assert pool.get_stats()["connections_closed"] == {"max_lifetime": 1}
    assert use(pool) != conn.number
    expect_full_capacity(pool)


def test_a_waiter_gets_a_new_one_when_one_comes_back_past_its_end(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, max_lifetime=100)
    conn = pool.getconn()
    waiter = in_thread(pool.getconn, PATIENCE)
    wait_for_waiters(pool, 1)
    age(pool, 101)
    pool.putconn(conn)
    fresh = waiter.result(PATIENCE)
    assert fresh is not conn
    assert conn.closed
    pool.putconn(fresh)


def test_nothing_is_ever_served_past_its_end(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=4, max_lifetime=0.02, validate_after=1000)
    late: list[float] = []

    def work() -> None:
        turn = 0
        while len(stub.made) <= 30:
            turn += 1
            conn = pool.getconn(PATIENCE)
            entry = inside.in_use(pool)[id(conn)]
            if entry.since >= entry.expires_at:  # when it was lent, by the pool's own clock
                late.append(entry.since - entry.expires_at)
            time.sleep(0.0005 if turn % 3 else 0.003)
            pool.putconn(conn)

    for caller in [in_thread(work) for _ in range(8)]:
        caller.result(PATIENCE)
    assert late == []
    expect_full_capacity(pool)


def test_what_is_idle_past_its_end_is_closed_without_a_caller(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=2, max_lifetime=0.2)
    with lent(pool, 2):
        pass
    wait_until(lambda: pool.get_stats()["pool_size"] == 0, PATIENCE, "both are closed")
    assert pool.get_stats()["connections_closed"] == {"max_lifetime": len(stub.made)}


def order_of(stub: StubDriver) -> list[str]:
    """Return a list to which each connect and each close is added."""
    order: list[str] = []
    stub.hooks["connect"] = lambda _: order.append("connect")
    stub.hooks["close"] = lambda _: order.append("close")
    return order


def test_the_minimum_gets_its_successor_before_it_ends(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(min_size=1, max_size=2, max_lifetime=0.5)
    pool.wait(PATIENCE)
    order = order_of(stub)
    wait_until(lambda: "close" in order, PATIENCE, "the first one ends")
    assert order[:2] == ["connect", "close"]


def test_the_successor_is_there_when_the_old_one_ends(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "REPLACE_BEFORE", 3 * PATIENCE)
    # Aged as it is, it would be trimmed as idle as soon as there are two.
    pool = stub_pool(min_size=1, max_size=2, max_lifetime=3000, max_idle=None)
    pool.wait(PATIENCE)
    (first,) = inside.entries(pool)
    age(pool, first.expires_at - time.monotonic() - 2 * PATIENCE)
    upkeep(pool)
    wait_until(lambda: stub.open_connections == 2, PATIENCE, "a successor comes early")
    assert pool.get_stats()["connections_closed"] == {}, "the old one is good for a while yet"


@pytest.mark.parametrize("early", [1.0, 1100.0])
def test_the_minimum_is_renewed_once_and_never_overgrown(
    early: float, stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lives shorter than a successor comes early must not ask for successors of successors."""
    inside.patch(monkeypatch, "REPLACE_BEFORE", early)
    pool = stub_pool(min_size=2, max_size=10, max_lifetime=1000)
    pool.wait(PATIENCE)
    for _ in range(5):
        upkeep(pool)
        assert pool.get_stats()["pool_size"] == 2
    if early == 1.0:
        age(pool, 999.5)
        upkeep(pool)
        wait_until(lambda: available(pool) == 2, PATIENCE)
        upkeep(pool)
        assert pool.get_stats()["connections_num"] == 4
        assert pool.get_stats()["connections_closed"] == {"max_lifetime": 2}


def test_where_there_is_no_room_the_old_one_ends_first(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(min_size=1, max_size=1, max_lifetime=0.3)
    pool.wait(PATIENCE)
    order = order_of(stub)
    wait_until(lambda: order.count("connect") >= 2, PATIENCE)
    assert order[:4] == ["close", "connect", "close", "connect"]
    pool.close()


# max_idle and min_size


def test_what_is_unused_for_max_idle_is_closed_down_to_min_size(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(min_size=2, max_size=6, max_idle=100)
    with lent(pool, 6):
        pass
    age(pool, 99)
    upkeep(pool)
    assert available(pool) == 6
    age(pool, 2)
    upkeep(pool)
    assert available(pool) == 2
    assert pool.get_stats()["connections_closed"] == {"max_idle": 4}
    age(pool, 1000)
    upkeep(pool)
    assert available(pool) == 2, "the minimum is kept"


def test_what_is_used_stays_and_the_rest_goes(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=6, max_idle=100, validate_after=1e6)
    with lent(pool, 6):
        pass
    age(pool, 99)
    used = use(pool)
    age(pool, 2)
    upkeep(pool)
    assert available(pool) == 1
    assert use(pool) == used


def test_the_keeper_trims_without_a_caller(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=3, max_idle=0.2)
    with lent(pool, 3):
        pass
    wait_until(lambda: pool.get_stats()["pool_size"] == 0, PATIENCE, "all are closed")


def test_a_lent_one_is_not_idle(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=3, max_idle=100)
    with lent(pool, 3):
        age(pool, 1000)
        upkeep(pool)
        assert pool.get_stats()["pool_size"] == 3
    upkeep(pool)
    assert available(pool) == 3, "used a moment ago"


def test_the_order_of_the_idle_ones_outlives_a_look_at_them(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=5)
    with lent(pool, 5):
        pass
    before = [conn.number for conn, _ in inside.idle(pool)]
    upkeep(pool)
    assert [conn.number for conn, _ in inside.idle(pool)] == before


# drain


@pytest.mark.parametrize("options", [{}, {"validate": "ping"}, {"check": lambda conn: None}])
def test_drain_closes_idle_ones_now_and_lent_ones_when_they_come_back(
    options: dict[str, Any], stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=3, **options)
    with lent(pool, 3) as taken:
        pool.putconn(taken.pop())
        pool.drain()
        assert stub.open_connections == 2
        assert pool.get_stats()["pool_size"] == 2
        assert not any(conn.closed for conn in taken), "it takes nothing from a borrower"
    assert stub.open_connections == 0
    assert pool.get_stats()["pool_size"] == 0
    assert pool.get_stats()["connections_closed"] == {"drained": 3}
    assert use(pool) == 4
    expect_full_capacity(pool)


def test_a_drained_pool_fills_to_its_minimum_again(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(min_size=2, max_size=4)
    pool.wait(PATIENCE)
    pool.drain()
    wait_until(lambda: available(pool) == 2, PATIENCE)
    assert {use(pool) for _ in range(4)}.isdisjoint({1, 2})


@pytest.mark.parametrize("background", [True, False])
def test_drain_renews_a_connect_that_is_under_way(
    background: bool, stub_pool: MakePool, gate: Gate
) -> None:
    """It may have been begun with yesterday's password, or to yesterday's server."""
    pool = stub_pool(max_size=1, background=background)
    caller = in_thread(pool.getconn, PATIENCE)
    gate.wait()
    pool.drain()
    gate.open()
    conn = caller.result(PATIENCE)
    assert conn.number == 2
    assert pool.get_stats()["connections_closed"] == {"drained": 1}
    pool.putconn(conn)
    assert use(pool) == 2, "it is renewed once"
    expect_full_capacity(pool)


def test_drain_under_load_lends_nothing_old_afterwards(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=4, validate_after=1000)
    end = threading.Event()
    drained_at = [0.0]
    old: list[float] = []

    def work() -> None:
        while not end.is_set():
            last = drained_at[-1]  # begun then, and over by now
            conn = pool.getconn(PATIENCE)
            born = inside.in_use(pool)[id(conn)].born
            if born < last:
                old.append(last - born)
            pool.putconn(conn)

    workers = [in_thread(work) for _ in range(8)]
    for _ in range(30):
        time.sleep(0.01)
        began = time.monotonic()
        pool.drain()
        drained_at.append(began)
    end.set()
    for worker in workers:
        worker.result(PATIENCE)
    assert old == []
    expect_full_capacity(pool)


def test_drain_serves_those_that_wait_with_new_ones(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    conn = pool.getconn()
    waiter = in_thread(pool.getconn, PATIENCE)
    wait_for_waiters(pool, 1)
    pool.drain()
    pool.putconn(conn)
    fresh = waiter.result(PATIENCE)
    assert fresh is not conn
    pool.putconn(fresh)


# resize


def test_resize_down_closes_idle_ones_now_and_lent_ones_when_they_come_back(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=6)
    with lent(pool, 6) as taken:
        for _ in range(2):
            pool.putconn(taken.pop())
        pool.resize(0, 3)
        assert stub.open_connections == 4
        assert not any(conn.closed for conn in taken), "it takes nothing from a borrower"
    assert (pool.min_size, pool.max_size) == (0, 3)
    assert stub.open_connections == 3
    expect_full_capacity(pool)


def test_resize_down_closes_the_longest_idle_first(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=3)
    with lent(pool, 3) as taken:
        numbers = [conn.number for conn in taken]
    wait_until(lambda: len(inside.idle(pool)) == 3, PATIENCE)  # the keeper may look at them
    pool.resize(0, 1)
    with pool.connection() as conn:
        assert conn.number == numbers[0], "lent() returns the first one last"


def test_resize_up_fills_to_the_new_minimum(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    use(pool)
    pool.resize(4, 8)
    wait_until(lambda: available(pool) == 4, PATIENCE)
    assert (pool.min_size, pool.max_size) == (4, 8)
    expect_full_capacity(pool)


def test_resize_down_and_up_again_while_lent(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=4)
    with lent(pool, 4):
        pool.resize(0, 1)
        pool.resize(0, 4)
    expect_full_capacity(pool)


@pytest.mark.parametrize(("min_size", "expected"), [(3, (3, 3)), (5, (5, 5))])
def test_resize_of_the_minimum_alone_raises_the_maximum_with_it(
    min_size: int, expected: tuple[int, int], stub_pool: MakePool
) -> None:
    pool = stub_pool(max_size=3)
    pool.resize(min_size)
    assert (pool.min_size, pool.max_size) == expected
    expect_full_capacity(pool)


def test_the_invariants_hold_while_what_is_too_many_is_lent(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=4)
    with lent(pool, 4):
        pool.resize(0, 2)
        inside.audit(pool)
        pool.drain()
        inside.audit(pool)
        inside.put(pool, max_size=1)  # as it would be if nothing had told what is lent
        for entry in inside.entries(pool):
            entry.expires_at = 1e9
        with pytest.raises(AssertionError, match="4 open and connecting exceed max_size"):
            inside.audit(pool)
        inside.put(pool, max_size=4)


def test_the_first_reason_to_end_counts(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    with lent(pool, 2):
        pool.resize(0, 1)
        pool.drain()
        pool.close()
    assert pool.get_stats()["connections_closed"] == {"excess": 1, "drained": 1}


def test_the_lowered_minimum_is_trimmed_by_max_idle(stub_pool: MakePool) -> None:
    pool = stub_pool(min_size=4, max_size=4, max_idle=100)
    pool.wait(PATIENCE)
    pool.resize(1, 4)
    age(pool, 101)
    upkeep(pool)
    assert available(pool) == 1


# On the server


def test_sessions_end_on_the_server_when_connections_do(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=4, name="ending sessions")
    with lent(pool, 4):
        assert count_sessions(postgres, "dbpool:ending sessions") == 4
    pool.drain()
    wait_until(lambda: count_sessions(postgres, "dbpool:ending sessions") == 0, PATIENCE)


def test_the_next_look_is_due_when_there_is_something_to_see(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, max_idle=None, max_lifetime=None, background=False)
    use(pool)
    now = time.monotonic()
    assert inside.next_upkeep(pool, now) == now + 10.0
    fresh = stub_pool(min_size=1, open=False, background=False)
    assert inside.next_upkeep(fresh, now) == now + 0.5, "its minimum is missing"


def test_a_successor_is_wanted_a_second_before_or_a_tenth_of_a_short_life(
    stub_pool: MakePool,
) -> None:
    assert inside.replace_before(stub_pool(max_lifetime=3600.0)) == 1.0
    assert inside.replace_before(stub_pool(max_lifetime=5.0)) == 0.5


def test_a_quiet_pool_is_looked_at_now_and_then(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "SWEEP_EVERY", 0.05)
    pool = stub_pool(max_size=1)
    use(pool)
    looked: list[float] = []
    sweep = inside.original("sweep")

    def spied(task: Any, now: float) -> None:
        looked.append(now)
        sweep(task, now)

    inside.patch(monkeypatch, "sweep", spied)
    wait_until(lambda: len(looked) >= 3, PATIENCE, "the keeper comes back")
