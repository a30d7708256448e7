"""While the server is away: callers are told soon, one prober tries, recovery is gentle."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectionPool, Misconfigured, PoolDown, PoolTimeout
from dbpool.drivers.base import UNKNOWN
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    ask,
    expect_full_capacity,
    gave_up_until,
    in_thread,
    lent,
    told,
    wait_for_waiters,
)
from tests.support.forking import in_child
from tests.support.servers import Postgres
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until

NOWHERE = "host=127.0.0.1 port=1 dbname=postgres user=postgres"


class Way:
    """A conninfo that leads to a server, or nowhere: a fault that leaves open sessions alone."""

    def __init__(self, postgres: Postgres) -> None:
        self._good = postgres.dsn()
        self.open = True

    def __call__(self) -> str:
        return self._good if self.open else NOWHERE


# What callers see


@pytest.mark.outage
@pytest.mark.parametrize("background", [True, False])
def test_callers_are_told_after_down_wait_and_not_after_their_timeout(
    background: bool, breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(
        breakable_postgres.dsn(), timeout=1000, down_wait=0.3, background=background, name="shop"
    )
    ask(pool)
    breakable_postgres.stop()
    pool.check()
    began = time.time()
    callers = [in_thread(told, pool) for _ in range(6)]
    for error in [caller.result(PATIENCE) for caller in callers]:
        assert isinstance(error, psycopg2.OperationalError)
        assert isinstance(error, PoolTimeout)
        assert isinstance(error.__cause__, psycopg2.OperationalError)
        assert error.waited >= 0.3
        assert error.attempts >= 1
        assert 0 <= error.next_attempt <= 3.0
        assert error.cause == "connect_refused"
        assert began - 1 <= error.since <= time.time()
        assert "'shop'" in str(error)
        assert "connect_refused" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert isinstance(again, PoolDown)
        assert isinstance(again, psycopg2.OperationalError)
        assert (again.since, again.attempts, again.cause) == (
            *(error.since, error.attempts),
            "connect_refused",
        )
    assert pool.state == "down"
    assert pool.get_stats()["timeouts_down"] == 6
    breakable_postgres.start()
    wait_until(lambda: succeeds(ask, pool), PATIENCE)
    wait_until(lambda: background is False or pool.state == "ok", PATIENCE)
    expect_full_capacity(pool)


def succeeds(function: Callable[..., object], *args: Any) -> bool:
    try:
        function(*args)
    except PoolDown:
        return False
    return True


@pytest.mark.outage
def test_a_blip_that_is_shorter_than_down_wait_costs_no_error(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(), max_size=3, down_wait=PATIENCE, timeout=PATIENCE)
    with lent(pool, 3):
        pass
    breakable_postgres.stop("immediate")
    pool.check()
    callers = [in_thread(ask, pool) for _ in range(6)]
    wait_until(lambda: pool.state == "down", PATIENCE)
    breakable_postgres.start()
    for caller in callers:
        caller.result(PATIENCE)
    assert pool.get_stats()["requests_errors"] == 0
    wait_until(lambda: pool.state == "ok", PATIENCE, "the ramp ends")
    expect_full_capacity(pool)


def test_who_waits_already_is_told_down_wait_after_it_came(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(down_wait=5.0)
    reach = inside.outage(pool)
    reach.name, reach.since = "down", 100.0
    assert reach.gives_up_at(110.0) == 115.0
    assert reach.gives_up_at(99.0) == 104.0, "not after a second down_wait"
    # Nor at once, where it has waited long for another reason: a blip costs no error.
    assert reach.gives_up_at(90.0) == 102.5
    reach.name = "ok"


def test_next_attempt_is_what_is_left_until_the_prober_connects(stub_pool: MakePool) -> None:
    reach, error = inside.outage(stub_pool()), PoolDown()
    reach.retry_at = 101.5
    reach.fill_error(error, 100.0)
    assert error.next_attempt == 1.5
    reach.fill_error(error, 102.0)
    assert error.next_attempt == 0.0


def test_a_shorter_timeout_counts(new_pool: MakePool) -> None:
    pool = new_pool(NOWHERE, down_wait=1000.0)
    gave_up_until(lambda: pool.state == "down", pool)
    error = told(pool, 0.2)
    assert error.waited < 1000.0
    assert told(pool, 0).attempts >= 1


def silence(_: object) -> None:
    raise StubError("connect_timeout")


def test_what_is_open_goes_on_serving_and_the_prober_needs_no_traffic(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=2, down_wait=0.2)
    with pool.connection() as conn:
        number = conn.number
    del conn
    stub.hooks["connect"] = silence
    with lent(pool, 1):
        assert told(pool).cause == "connect_timeout"
        assert pool.state == "down"
        waiter = in_thread(pool.getconn)
        wait_for_waiters(pool, 1)
    pool.putconn(waiter.result(PATIENCE))
    for _ in range(5):
        with pool.connection() as conn:
            assert conn.number == number
    del conn
    assert pool.state == "down"
    stub.hooks.clear()
    wait_until(lambda: pool.state == "ok", PATIENCE, "nobody asks, and it recovers")
    expect_full_capacity(pool)


def test_one_failed_connect_is_no_outage_while_something_is_open(
    postgres: Postgres, new_pool: MakePool
) -> None:
    way = Way(postgres)
    pool = new_pool(way, max_size=2, max_connecting=1)
    states: list[str] = []

    def once() -> str:
        if pool.get_stats()["connections_num"] > 1:
            states.append(pool.state)
            way.open = True
        return way()

    inside.put(pool, conninfo=once)
    with lent(pool, 1):
        way.open = False
        pool.putconn(pool.getconn(PATIENCE))
    assert states[0] == "ok"
    assert pool.get_stats()["connections_errors"] == 1


def test_two_connects_in_a_row_into_silence_are_an_outage_while_something_is_open(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=3, max_connecting=1, down_wait=0.0, timeout=PATIENCE)
    with lent(pool, 1):
        seen: list[str] = []

        def silent(_: object) -> None:
            seen.append(pool.state)
            raise StubError("connect_timeout")

        stub.hooks["connect"] = silent
        told(pool)
        wait_until(lambda: len(seen) > 2, PATIENCE, "the prober goes on")
    assert seen[:3] == ["ok", "ok", "down"]
    stub.hooks.clear()
    wait_until(lambda: pool.state == "ok", PATIENCE)
    expect_full_capacity(pool)


def test_one_connect_at_a_time_while_it_is_down_however_many_wait(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    ramp = Ramp(stub)
    pool = stub_pool(max_size=8, max_connecting=4, down_wait=PATIENCE, timeout=PATIENCE)
    callers = [in_thread(pool.getconn) for _ in range(8)]
    wait_until(lambda: pool.state == "down", PATIENCE)
    wait_until(lambda: not inside.attempts(pool), PATIENCE)
    ramp.refuse = False  # the next one hangs
    try:
        wait_until(lambda: ramp.inside == 1, PATIENCE)
        assert stays(lambda: ramp.inside == 1, 3 * inside.WITHIN), "traffic starts none"
    finally:
        ramp.let_go(100)
    for caller in callers:
        pool.putconn(caller.result(PATIENCE))


@pytest.mark.parametrize("error", [KeyError("no such setting"), StubError("auth")], ids=repr)
@pytest.mark.parametrize("option", ["configure", "kwargs", "conninfo"])
def test_an_error_of_a_callback_is_no_outage(
    option: str, error: Exception, new_pool: MakePool, stub: StubDriver
) -> None:
    """Nor is one of the driver's own, from a setting refused, or from where passwords are kept."""

    def fail(*_: object) -> Any:
        raise error

    given: dict[str, Any] = {option: fail}
    pool = new_pool(given.pop("conninfo", ""), driver=stub, down_wait=0.0, **given)
    with pytest.raises(Misconfigured, match=f"{option}.* raised {type(error).__name__}") as caught:
        pool.getconn(PATIENCE)
    assert caught.value.__cause__ is error
    assert pool.state == "ok"


def test_a_link_that_is_lost_in_configure_is_an_outage(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    def cut(conn: Any) -> None:
        conn.alive = False
        raise StubError("connect_refused")

    assert told(stub_pool(configure=cut, down_wait=0.0)).cause == "connect_refused"


@pytest.mark.outage
def test_a_frozen_server_is_down_after_two_connects_and_costs_no_slot(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(), connect_timeout=2, max_size=3, down_wait=0.1)
    breakable_postgres.freeze()
    error = in_thread(told, pool, PATIENCE).result(PATIENCE)
    assert error.cause == "connect_timeout"
    assert error.attempts >= 2
    breakable_postgres.thaw()
    wait_until(lambda: succeeds(ask, pool), PATIENCE)
    expect_full_capacity(pool)


@pytest.mark.parametrize("background", [True, False])
def test_a_forked_child_starts_well_whatever_the_parent_knows(
    background: bool, postgres: Postgres, new_pool: MakePool
) -> None:
    """A lock that a thread of the parent holds may pass for one of a new thread's own."""
    way = Way(postgres)
    way.open = False
    pool = new_pool(way, down_wait=0.0, background=background)
    told(pool)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with inside.lock(inside.outage(pool).server), inside.servers_lock():
            held.set()
            done.wait(PATIENCE)

    def child() -> tuple[str, bool]:
        before = pool.state
        way.open = True
        return before, ask(pool) > 0

    holder = in_thread(hold)
    assert held.wait(PATIENCE)
    try:
        assert in_child(child) == ("ok", True)
    finally:
        done.set()
    holder.result(PATIENCE)
    assert pool.state == "down"


# How often it is tried


@pytest.mark.outage
def test_three_attempts_a_second_at_most_over_all_pools_of_a_server(
    breakable_postgres: PostgresServer, new_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted: list[tuple[float, str]] = []
    claim = inside.Server.claim

    def spied(server: inside.Server, outage: inside.Outage, now: float) -> bool:
        given = claim(server, outage, now)
        if given:
            granted.append((now, outage.pool_name))
        return given

    begun: list[float] = []
    started = inside.Server.started

    def counted(server: inside.Server, now: float) -> None:
        begun.append(now)
        started(server, now)

    def tried() -> int:
        return sum(pool.get_stats()["connections_num"] for pool in pools)

    inside.patch(monkeypatch, "Server.claim", spied)
    inside.patch(monkeypatch, "Server.started", counted)
    dsn = breakable_postgres.dsn()
    pools = [new_pool(dsn, down_wait=0.05, name=f"pool {n}") for n in range(3)]
    pools.append(new_pool(lambda: dsn, down_wait=0.05, name="pool 3", min_size=2))
    for pool in pools:
        ask(pool)
    breakable_postgres.stop()
    for pool in pools:
        pool.check()
    end = threading.Event()

    def hammer(pool: ConnectionPool) -> None:
        while not end.is_set():
            told(pool)

    callers = [in_thread(hammer, pool) for pool in pools * 3]
    wait_until(lambda: len(granted) >= 12, PATIENCE, "the probers try")
    end.set()
    for caller in callers:
        caller.result(PATIENCE)
    wait_until(lambda: tried() == len(granted) + len(begun), PATIENCE, "each attempt was granted")
    times = [now for now, _ in granted]
    gaps = [after - before for before, after in zip(times, times[3:], strict=False)]
    assert min(gaps) >= 1.0, "more than three in a second"
    assert len({name for _, name in granted}) == 4, "a pool never gets its turn"
    breakable_postgres.start()
    for pool in pools:
        wait_until(lambda pool=pool: pool.state == "ok", PATIENCE, "each recovers by itself")
        expect_full_capacity(pool)


def test_attempts_that_hang_are_put_off_ever_longer_up_to_two_seconds(
    stub_pool: MakePool,
) -> None:
    pool, server = inside.outage(stub_pool(open=False)), inside.Server()
    pauses = []
    for n in range(8):
        server.failed(pool, 1000.0 * n + 0.4, since=1000.0 * n)
        pauses.append(server.due(pool) - 1000.0 * n)
    assert 0.6 <= pauses[0] <= 0.8, "no two within a third of a second"
    assert max(pauses) <= 2.0
    assert min(pauses[3:]) >= 1.5
    assert len({round(pause, 4) for pause in pauses[3:]}) > 1, "no jitter"
    server.failed(pool, 10_000.0, since=9_995.0)
    assert server.due(pool) - 10_000.0 <= 0.35, "one that hung for five seconds has waited already"
    server.failed(pool, 10_100.0, since=10_100.0)
    assert server.due(pool) - 10_100.0 <= 0.35, "a server that refuses is there again any moment"


def test_while_one_pool_tries_the_next_one_waits_its_turn(stub_pool: MakePool) -> None:
    """However long the first one hangs: what it has met with is not known yet."""
    first, second = (inside.outage(stub_pool(open=False)) for _ in range(2))
    server, now = inside.Server(), 1000.0
    assert server.claim(first, now)
    assert not server.claim(second, now)
    assert not server.claim(second, now + 0.9 * inside.SPACING)
    assert server.claim(second, now + 1.1 * inside.SPACING)


def test_a_server_that_refuses_slowly_is_asked_as_often_as_one_that_refuses_at_once(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """On a busy machine a refusal takes its time; callers must not be told "down" for it."""

    def refuse(_: object) -> None:
        time.sleep(1.1 * inside.SPACING)
        raise StubError("connect_refused")

    stub.hooks["connect"] = refuse
    pool = stub_pool(down_wait=0.0)
    inside.outage(pool).server = inside.Server()
    told(pool)
    pauses = []
    # What is read late is only read as shorter.
    while inside.outage(pool).attempts < 5:
        pauses.append(inside.outage(pool).server.due(inside.outage(pool)) - time.monotonic())
        time.sleep(0.005)
    assert max(pauses) <= 1.1 * inside.SPACING


def test_the_first_pool_that_connects_again_wakes_the_others_of_its_server(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    def refuse(_: object) -> None:
        raise StubError("connect_refused")

    stub.hooks["connect"] = refuse
    first, second = stub_pool(down_wait=0.0), stub_pool(down_wait=0.0)
    inside.outage(first).server = inside.outage(second).server = server = inside.Server()
    for pool in (first, second):
        told(pool)
        wait_until(lambda pool=pool: not inside.attempts(pool), PATIENCE)
    long = time.monotonic() + 1000
    with inside.lock(first), inside.lock(second):  # as after attempts that hung
        inside.put(server, next_at=long)
        inside.outage(first).retry_at = inside.outage(second).retry_at = long
        stub.hooks.clear()
    assert (first.state, second.state) == ("down", "down")
    inside.put(server, next_at=0.0)
    inside.outage(first).retry_at = 0.0
    inside.upkeep(first, time.monotonic())
    wait_until(lambda: (first.state, second.state) == ("ok", "ok"), PATIENCE, "both are back")


def test_pools_of_different_servers_do_not_wait_for_each_other(
    postgres: Postgres, new_pool: MakePool
) -> None:
    dead, alive = new_pool(NOWHERE, down_wait=0.0), new_pool(postgres.dsn())
    told(dead)
    ask(alive)
    assert inside.outage(dead).server is not inside.outage(alive).server
    assert inside.outage(alive).server is not inside.outage(new_pool("")).server
    assert alive.state == "ok"


def test_one_connect_tells_whether_the_server_is_there_when_all_that_was_open_has_died(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """Else two of the three attempts of a second are spent in its first moment."""
    entered, go = threading.Semaphore(0), threading.Event()

    def refuse(_: object) -> None:
        entered.release()
        go.wait(PATIENCE)
        raise StubError("connect_refused")

    pool = stub_pool(max_size=2, max_connecting=2, timeout=PATIENCE, down_wait=PATIENCE)
    with lent(pool, 2) as conns:
        callers = [in_thread(pool.getconn) for _ in range(2)]
        wait_for_waiters(pool, 2)
        stub.hooks["connect"] = refuse
        for conn in conns:
            conn.status = UNKNOWN
    try:
        assert entered.acquire(timeout=PATIENCE)
        inside.start_connectors(pool)  # what the keeper may do at any moment
        assert len(inside.attempts(pool)) == 1
    finally:
        stub.hooks.clear()
        go.set()
    for caller in callers:
        caller.result(PATIENCE)


# Recovery


class Ramp:
    """Refuses, then holds up each connect until it is let go."""

    def __init__(self, stub: StubDriver) -> None:
        self.refuse = True
        self.inside = 0
        self._lock = threading.Lock()
        self._go = threading.Semaphore(0)
        stub.hooks["connect"] = self._pass

    def _pass(self, _: object) -> None:
        if self.refuse:
            raise StubError("connect_refused")
        with self._lock:
            self.inside += 1
        self._go.acquire(timeout=PATIENCE)
        with self._lock:
            self.inside -= 1
        if self.refuse:
            raise StubError("connect_refused")

    def let_go(self, count: int = 1) -> None:
        self._go.release(count)


def recovering(stub_pool: MakePool, stub: StubDriver) -> tuple[ConnectionPool, Ramp, list[Any]]:
    """Return a pool with 30 callers, whose server has just come back."""
    ramp = Ramp(stub)
    pool = stub_pool(max_size=30, max_connecting=8, down_wait=PATIENCE)
    callers = [in_thread(pool.getconn, PATIENCE) for _ in range(30)]
    wait_until(lambda: pool.state == "down", PATIENCE)
    wait_until(lambda: not inside.attempts(pool), PATIENCE)
    ramp.refuse = False
    return pool, ramp, callers


def stays(condition: Callable[[], bool], seconds: float = 0.15) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not condition():
            return False
        time.sleep(0.005)
    return True


def test_recovery_connects_one_then_two_then_four_at_a_time(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool, ramp, callers = recovering(stub_pool, stub)
    try:
        opened = 0
        for size, step in ((1, 1), (1, 1), (2, 1), (4, 2)):
            wait_until(lambda size=size: ramp.inside == size, PATIENCE, f"{size} at a time")
            assert stays(lambda size=size: ramp.inside == size), "more than the ramp allows"
            assert pool.state == ("down" if not opened else "recovering")
            ramp.let_go(step)
            opened += step
            wait_until(lambda n=opened: len(inside.entries(pool)) == n, PATIENCE)
        wait_until(lambda: ramp.inside == 8, PATIENCE, "the ramp has reached its end")
        assert pool.state == "ok"
    finally:
        ramp.let_go(100)
    for caller in callers:
        pool.putconn(caller.result(PATIENCE))
    expect_full_capacity(pool)


def test_a_failure_in_recovery_makes_it_one_at_a_time_again(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool, ramp, callers = recovering(stub_pool, stub)
    try:
        for n in (1, 2):
            wait_until(lambda: ramp.inside == 1, PATIENCE)
            ramp.let_go()
            wait_until(lambda n=n: len(inside.entries(pool)) == n, PATIENCE)
        wait_until(lambda: ramp.inside == 2, PATIENCE)
        before = pool.get_stats()["connections_errors"]
        ramp.refuse = True
        ramp.let_go()
        wait_until(lambda: pool.get_stats()["connections_errors"] > before, PATIENCE)
        assert inside.outage(pool).parallel_connects(inside.store(pool)) == 1
    finally:
        ramp.refuse = False
        ramp.let_go(100)
    for caller in callers:
        pool.putconn(caller.result(PATIENCE))
    wait_until(lambda: pool.state == "ok", PATIENCE)


def test_it_is_logged_on_the_way_down_every_half_minute_and_on_the_way_up(
    postgres: Postgres, new_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    way = Way(postgres)
    way.open = False
    pool = new_pool(way, name="shop", down_wait=0.0)
    for _ in range(4):
        told(pool)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "pool 'shop' is down, it cannot connect: connect_refused (OperationalError); 0 open"
    ]
    inside.outage(pool).since = now = time.monotonic()
    inside.put(inside.outage(pool), told_at=now)
    for seconds in (29, 31, 32, 60, 62):  # 30 and 60 s after the way down
        line = inside.outage(pool).reminder(now + seconds)
        lines += [line] if line else []
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "pool 'shop' has been down for 31 s",
        "pool 'shop' has been down for 62 s",
    ]
    assert "4 callers refused" in lines[1]
    way.open = True
    wait_until(lambda: pool.state == "ok", PATIENCE)
    up = [r.getMessage() for r in caplog.records if "up again after" in r.getMessage()]
    assert len(up) == 1
    assert "attempts, 4 callers refused" in up[0]
    assert inside.outage(pool).reminder(now + 1000) == ""


def test_the_keeper_tells_of_an_outage_that_lasts(
    new_pool: MakePool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "REMINDER_EVERY", 0.2)
    pool = new_pool(NOWHERE, down_wait=0.0, name="shop")
    told(pool)
    wait_until(lambda: caplog.text.count("has been down for") >= 2, PATIENCE)


# A server without room


@pytest.fixture
def limited(postgres: Postgres) -> Any:
    """Return a function that limits a role's sessions; the role's DSN is its attribute."""
    from tests.support.sessions import run_sql

    run_sql(postgres, "DROP ROLE IF EXISTS limited")
    run_sql(postgres, f"CREATE ROLE limited {postgres.login()}")

    def limit(count: int) -> None:
        run_sql(postgres, f"ALTER ROLE limited CONNECTION LIMIT {count}")

    yield limit, postgres.dsn(user="limited", dbname="postgres")
    run_sql(postgres, "DROP ROLE IF EXISTS limited")


def test_a_full_server_costs_no_error_while_one_connection_lives_and_is_asked_again(
    limited: Any, new_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    limit, dsn = limited
    limit(2)
    # Of two connects at once the server may refuse the one and the other, and take the next.
    pool = new_pool(dsn, max_size=5, max_connecting=1, timeout=PATIENCE, down_wait=0.0)
    callers = [in_thread(lambda: [ask(pool) for _ in range(30)]) for _ in range(8)]
    for caller in callers:
        caller.result(PATIENCE)
    with lent(pool, 2):
        gave_up_until(lambda: inside.outage(pool).full, pool)
        before = pool.get_stats()["requests_errors"]
        with pytest.raises(PoolTimeout, match="no room for more connections") as caught:
            pool.getconn(timeout=0.1)
    assert not isinstance(caught.value, PoolDown)
    stats = pool.get_stats()
    assert stats["pool_size"] == 2
    assert stats["connections_errors"] == 1, "it goes on asking a server that is full"
    assert stats["requests_errors"] == before + 1
    assert pool.state == "ok"
    said = [r.getMessage() for r in caplog.records if "no room" in r.getMessage()]
    assert len(said) == 1
    assert "it works with 2 of 5" in said[0]
    assert 0 < inside.peek(inside.outage(pool), "full_until") - time.monotonic() <= 60, (
        "it grows again within a minute"
    )
    limit(10)
    inside.put(inside.outage(pool), full_until=0.0)  # the minute is over
    expect_full_capacity(pool)


def test_a_full_server_is_an_outage_where_nothing_is_open(limited: Any, new_pool: MakePool) -> None:
    limit, dsn = limited
    limit(0)
    pool = new_pool(dsn, down_wait=0.1)
    assert told(pool).cause == "too_many_connections"
    limit(10)
    wait_until(lambda: pool.state == "ok", PATIENCE)
    expect_full_capacity(pool)
