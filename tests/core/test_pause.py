"""`pause` and `resume`: callers queue while an operator restarts the server."""

from __future__ import annotations

import math
import threading
import time

import pytest

from dbpool import PoolClosed, PoolDown, PoolTimeout
from dbpool.health import HealthCheck
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    ask,
    expect_full_capacity,
    in_thread,
    lent,
    told,
    wait_for_waiters,
)
from tests.support.gate import Gate
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until


@pytest.mark.outage
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_under_pause_costs_no_error(
    mode: str, breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(), max_size=4, min_size=2, timeout=PATIENCE)
    end = threading.Event()
    count = [0] * 8

    def work(number: int) -> None:
        while not end.is_set():
            ask(pool)
            count[number] += 1

    callers = [in_thread(work, number) for number in range(8)]
    wait_until(lambda: min(count) > 5, PATIENCE)
    assert pool.pause(wait=PATIENCE)
    assert pool.state == "paused"
    assert pool.pause()
    assert (pool.get_stats()["pool_size"], pool.get_stats()["pool_available"]) == (0, 0)
    breakable_postgres.restart(mode)
    wait_for_waiters(pool, 8)
    before = list(count)
    pool.resume()
    pool.resume()
    wait_until(lambda: all(a > b + 5 for a, b in zip(count, before, strict=True)), PATIENCE)
    end.set()
    for caller in callers:
        caller.result(PATIENCE)
    stats = pool.get_stats()
    assert (stats["requests_errors"], stats["connections_lost"]) == (0, 0)
    wait_until(lambda: pool.state == "ok", PATIENCE)
    expect_full_capacity(pool)


def test_pause_waits_for_what_is_lent_and_callers_for_their_timeout(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=2, name="pausing")
    conn = pool.getconn()
    assert pool.pause() is False
    with pytest.raises(PoolTimeout, match="the pool is paused: call resume") as caught:
        pool.getconn(timeout=0.05)
    assert not isinstance(caught.value, PoolDown)
    pausing = in_thread(pool.pause, PATIENCE)
    assert one(conn, "SELECT 1") == 1, "a borrower can go on"
    pool.putconn(conn)
    assert pausing.result(PATIENCE) is True
    wait_until(lambda: count_sessions(postgres, "dbpool:pausing") == 0, PATIENCE)
    assert pool.get_stats()["connections_closed"] == {"paused": 1}
    waiter = in_thread(pool.getconn, PATIENCE)
    wait_for_waiters(pool, 1)
    pool.resume()
    pool.putconn(waiter.result(PATIENCE))
    expect_full_capacity(pool)


def test_pause_closes_the_health_checks_own_connection_too(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1)
    health = HealthCheck(lambda: {"": pool}, deadline=PATIENCE)
    with lent(pool, 1):
        inside.put(pool, proved_at=-math.inf)  # a while ago
        assert health.respond("GET", "/healthz/db", "", [], "")[0] == 200
        assert stub.open_connections == 2
        pool.pause(0)
        assert stub.open_connections == 1, "a smart stop waits for every session"


def test_a_pool_that_is_paused_while_down_rests(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise StubError("connect_refused")

    stub.hooks["connect"] = refuse
    pool = stub_pool(down_wait=0.0)
    told(pool)
    assert pool.state == "down"
    pool.pause()
    later = time.monotonic() + 5.0
    assert inside.next_upkeep(pool, later) >= later + 1.0, "nothing is due a hundred times a second"
    pool.resume()
    told(pool)


def test_a_pool_that_is_made_no_larger_than_what_is_open_is_not_down(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """It connects no more, so nothing else would ever end that."""

    def refuse(_: object) -> None:
        raise StubError("connect_timeout")

    pool = stub_pool(max_size=4, down_wait=0.0)
    with lent(pool, 3):
        stub.hooks["connect"] = refuse
        waiting = in_thread(pool.getconn, PATIENCE)
        with pytest.raises(PoolDown):
            waiting.result(PATIENCE)
        pool.resize(0, 3)
        assert pool.state in ("recovering", "ok")
        with pytest.raises(PoolTimeout, match="return connections sooner") as caught:
            pool.getconn(timeout=0.05)
        assert not isinstance(caught.value, PoolDown)
    pool.putconn(pool.getconn())
    wait_until(lambda: pool.state == "ok", PATIENCE)


def test_a_connect_under_way_at_the_pause_is_not_kept(
    stub_pool: MakePool, stub: StubDriver, gate: Gate
) -> None:
    pool = stub_pool(max_size=1)
    caller = in_thread(pool.getconn, PATIENCE)
    gate.wait()
    pausing = in_thread(pool.pause, PATIENCE)
    wait_until(lambda: pool.state == "paused", PATIENCE)
    gate.open()
    assert pausing.result(PATIENCE)
    assert stub.open_connections == 0
    pool.resume()
    pool.putconn(caller.result(PATIENCE))
    assert pool.get_stats()["connections_closed"] == {"paused": 1}


def test_waiting_for_the_minimum_of_a_paused_pool_says_that_it_is_paused(
    stub_pool: MakePool,
) -> None:
    pool = stub_pool(min_size=1)
    pool.pause()
    with pytest.raises(PoolTimeout, match="paused: call resume"):
        pool.wait(0.01)


def test_a_paused_pool_can_be_closed_and_a_closed_one_not_paused(stub_pool: MakePool) -> None:
    pool = stub_pool()
    pool.pause()
    waiter = in_thread(pool.getconn, PATIENCE)
    wait_for_waiters(pool, 1)
    pool.close()
    with pytest.raises(PoolClosed):
        waiter.result(PATIENCE)
    assert pool.state == "closed"
    with pytest.raises(PoolClosed):
        pool.pause()
    pool.resume()
    assert stub_pool(open=False).state == "new"


@pytest.mark.outage
def test_resume_before_the_server_is_there_is_an_outage_like_any_other(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(), down_wait=0.1)
    ask(pool)
    assert pool.pause()
    breakable_postgres.stop()
    pool.resume()
    told(pool)
    assert pool.state == "down"
    assert pool.pause(), "a pool that is down can be paused"
    with pytest.raises(PoolTimeout, match="paused"):
        pool.getconn(timeout=0.05)
    breakable_postgres.start()
    pool.resume()
    ask(pool)
    wait_until(lambda: pool.state == "ok", PATIENCE)
