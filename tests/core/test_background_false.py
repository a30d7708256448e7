"""`background=False`: no thread at all; what is due happens in callers."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolDown, PoolTimeout
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
from tests.support.servers import Postgres
from tests.support.sessions import one, terminate
from tests.support.stub_driver import StubDriver, StubError
from tests.support.threads import KEEPER
from tests.support.waiting import wait_until


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of dbpool's threads that are started; the keeper is not there to begin with."""
    gc.collect()
    wait_until(
        lambda: all(thread.name != KEEPER for thread in threading.enumerate()),
        PATIENCE,
        "the keeper of earlier tests ends",
    )
    names: list[str] = []
    start = threading.Thread.start

    def watched(thread: threading.Thread) -> None:
        if thread.name.startswith("dbpool"):
            names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", watched)
    return names


def use(pool: ConnectionPool) -> Any:
    with pool.connection(PATIENCE) as conn:
        return conn.number


def test_connecting_waiting_and_growing_start_no_thread(
    stub_pool: MakePool, stub: StubDriver, started: list[str]
) -> None:
    connecting: list[str] = []
    stub.hooks["connect"] = lambda _: connecting.append(threading.current_thread().name)
    pool = stub_pool(background=False, min_size=2, max_size=4)
    assert connecting == [], "nothing happens before somebody comes"
    callers = [in_thread(lambda: [use(pool) for _ in range(20)]) for _ in range(8)]
    for caller in callers:
        caller.result(PATIENCE)
    expect_full_capacity(pool)
    pool.drain()
    pool.resize(1, 3)
    pool.wait(PATIENCE)
    expect_full_capacity(pool)
    pool.close()
    assert started == []
    assert set(connecting) <= {"caller", threading.current_thread().name}


def test_failing_and_lost_ones_start_no_thread(
    stub_pool: MakePool, stub: StubDriver, started: list[str]
) -> None:
    pool = stub_pool(background=False, max_size=2, down_wait=PATIENCE)
    pool.getconn()  # dropped
    with lent(pool, 1):
        pass

    def refuse(_: object) -> None:
        raise StubError("connect_refused")

    stub.hooks["connect"] = refuse
    pool.drain()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.2)
    del stub.hooks["connect"]
    expect_full_capacity(pool)
    assert pool.get_stats()["connections_dropped"] == 1
    assert started == []


@pytest.mark.parametrize("options", [{"validate": "ping"}, {"reset": "discard"}, {}], ids=str)
def test_pings_roll_backs_and_resets_start_no_thread(
    options: dict[str, Any], pg_pool: MakePool, started: list[str]
) -> None:
    pool = pg_pool(background=False, max_size=1, **options)
    for _ in range(2):
        conn = pool.getconn()
        one(conn, "SELECT 1")
        pool.putconn(conn)
    pool.check()
    assert started == []


def test_a_caller_without_room_waits_for_whoever_returns(stub_pool: MakePool) -> None:
    pool = stub_pool(background=False, max_size=1)
    with lent(pool, 1):
        waiting = [in_thread(use, pool) for _ in range(4)]
        wait_for_waiters(pool, 4)
    assert [future.result(PATIENCE) for future in waiting] == [1] * 4


def test_a_waiter_connects_itself_when_a_slot_becomes_free(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(background=False, max_size=1)
    conn = pool.getconn()
    waiting = in_thread(use, pool)
    wait_for_waiters(pool, 1)
    pool.putconn(conn, close=True)
    assert waiting.result(PATIENCE) == 2


def test_the_first_caller_fills_the_minimum(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(background=False, min_size=3, max_size=5)
    use(pool)
    assert pool.get_stats()["pool_available"] == 3


def age(pool: ConnectionPool, seconds: float) -> None:
    for entry in inside.entries(pool):
        entry.since -= seconds
        entry.expires_at -= seconds
        entry.good_until -= seconds
        entry.renew_at -= seconds
    inside.put(pool, due=inside.due(pool) - seconds)


def test_callers_trim_what_is_long_unused(stub_pool: MakePool) -> None:
    pool = stub_pool(background=False, max_size=4, min_size=1, max_idle=100, validate_after=1)
    with lent(pool, 4):
        pass
    age(pool, 101)
    use(pool)
    settled(pool)
    assert pool.get_stats()["pool_available"] == 1


def test_callers_renew_what_is_past_its_end(stub_pool: MakePool) -> None:
    pool = stub_pool(background=False, max_size=4, min_size=2, max_lifetime=100, validate_after=1)
    with lent(pool, 4):
        pass
    age(pool, 101)
    assert use(pool) > 4
    settled(pool)
    assert pool.get_stats()["pool_available"] == 2
    assert pool.get_stats()["connections_closed"] == {"max_lifetime": 4}


def test_sessions_that_ended_cost_no_caller_an_error(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool(background=False, max_size=4, min_size=2, validate_after=0)
    with lent(pool, 4) as taken:
        pids = [conn.info.backend_pid for conn in taken]
    terminate(postgres, *pids)
    for _ in range(8):
        with pool.connection() as conn:
            assert one(conn, "SELECT 1") == 1
    assert pool.get_stats()["connections_lost"] == 4
    expect_full_capacity(pool)


def test_a_wait_for_the_minimum_makes_it(stub_pool: MakePool) -> None:
    pool = stub_pool(background=False, min_size=3, max_size=3, open=False)
    pool.open(wait=True, timeout=PATIENCE)
    assert pool.get_stats()["pool_available"] == 3


def test_an_exception_in_upkeep_costs_the_caller_no_slot(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """Upkeep may close connections, and a driver's close may raise."""
    pool = stub_pool(background=False, max_size=3, max_idle=100, validate_after=1)
    with lent(pool, 3):
        pass
    age(pool, 101)

    def fail(_: object) -> None:
        del stub.hooks["close"]
        raise StubError("close failed")

    stub.hooks["close"] = fail
    try:
        use(pool)
    except StubError:
        pass
    time.sleep(0)
    expect_full_capacity(pool)


def test_a_server_that_is_back_is_found_by_callers_that_do_not_wait_for_it(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """With down_wait=0 the first caller that is told leaves nobody behind who would connect."""
    away = [True]

    def connect(_: object) -> None:
        if away:
            raise StubError("connect_refused")

    stub.hooks["connect"] = connect
    pool = stub_pool(background=False, down_wait=0.0)
    with pytest.raises(PoolDown):
        pool.getconn(PATIENCE)
    away.clear()

    def served() -> bool:
        try:
            use(pool)
        except PoolDown:
            return False
        return True

    wait_until(served, PATIENCE)
    assert pool.state in ("recovering", "ok")


def test_a_dropped_connection_is_found_before_a_caller_waits(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "MAX_NAP", PATIENCE)  # nobody looks again meanwhile
    pool = stub_pool(max_size=1, background=False)
    pool.getconn()  # and forget it
    conn = pool.getconn(timeout=PATIENCE / 10)
    assert pool.get_stats()["connections_dropped"] == 1
    pool.putconn(conn)
