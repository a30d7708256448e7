"""A connection that is dropped instead of returned frees its slot, and is told of once."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
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
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until


def dropped(pool: ConnectionPool) -> int:
    return int(pool.get_stats()["connections_dropped"])


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only what asks for it collects garbage."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Cycle:
    """Holds itself, so that only the collector ends it, and a connection."""

    def __init__(self, conn: Any) -> None:
        self.me = self
        self.conn = conn


def test_a_dropped_connection_frees_its_slot_and_ends_its_session(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=2, name="dropping")
    with lent(pool, 2) as taken:
        taken.pop()
        wait_until(lambda: dropped(pool) == 1, PATIENCE, "the keeper frees it without a caller")
        assert pool.get_stats()["pool_size"] == 1
        wait_until(lambda: count_sessions(postgres, "dbpool:dropping") == 1, PATIENCE)
    assert pool.get_stats()["connections_closed"] == {"lost": 1}
    expect_full_capacity(pool)


def test_a_waiter_gets_the_slot_of_a_dropped_connection(stub_pool: MakePool) -> None:
    for background in (True, False):
        pool = stub_pool(max_size=1, background=background)
        held = [pool.getconn()]
        waiter = in_thread(pool.getconn, PATIENCE)
        wait_for_waiters(pool, 1)
        held.clear()
        pool.putconn(waiter.result(PATIENCE))
        expect_full_capacity(pool)


def test_a_dropped_transaction_is_rolled_back_by_the_end_of_its_session(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=1)
    with pool.connection() as conn:
        one(conn, "SELECT pg_advisory_lock(815)")
    conn = pool.getconn()
    one(conn, "SELECT txid_current()")
    del conn
    with pool.connection() as conn:
        wait_until(lambda: one(conn, "SELECT pg_try_advisory_lock(815)"), PATIENCE)


def test_it_is_warned_about_once_with_the_pools_name(
    stub_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dbpool")
    pool = stub_pool(max_size=2, name="shop")
    for _ in range(5):
        pool.getconn()
        settled(pool)
    assert dropped(pool) == 5
    (text,) = [record.getMessage() for record in caplog.records]
    assert "'shop'" in text
    assert "dropped without being returned" in text
    assert "with pool.connection()" in text


@pytest.mark.usefixtures("no_collector")
def test_one_dropped_in_a_cycle_is_found_by_a_caller_near_its_timeout(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "collected_at", 0.0)
    pool = stub_pool(max_size=1)
    Cycle(pool.getconn())
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    pool.putconn(pool.getconn(timeout=2 * inside.MAX_NAP))
    assert dropped(pool) == 1


@pytest.mark.usefixtures("no_collector")
def test_many_callers_near_their_timeout_do_not_collect_one_after_the_other(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "collected_at", 0.0)
    collected: list[float] = []
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda: collected.append(time.monotonic()) or collect())
    pool = stub_pool(max_size=1)
    with lent(pool, 1):
        callers = [in_thread(pool.getconn, 0.8) for _ in range(10)]
        for caller in callers:
            with pytest.raises(PoolTimeout):
                caller.result(PATIENCE)
    assert len(collected) <= 2


@pytest.mark.usefixtures("no_collector")
def test_nobody_collects_where_nothing_is_open_that_could_have_been_dropped(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "collected_at", 0.0)
    collected: list[None] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(None))

    def refuse(_: object) -> None:
        raise StubError("connect_refused")

    stub.hooks["connect"] = refuse
    pool = stub_pool(max_size=2, down_wait=0.05)
    with pytest.raises(PoolDown):
        pool.getconn(timeout=PATIENCE)
    assert collected == [], "a collection holds the GIL; in an outage it stops all threads"


@pytest.mark.usefixtures("no_collector")
def test_one_dropped_in_a_cycle_is_found_when_the_collector_runs(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    Cycle(pool.getconn())
    gc.collect()
    wait_until(lambda: dropped(pool) == 1, PATIENCE)
    expect_full_capacity(pool)


def test_what_ended_threads_held_is_free_again(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=4)

    def take_and_end() -> None:
        conn = pool.getconn(PATIENCE)
        assert conn.number

    threads = [threading.Thread(target=take_and_end) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    settled(pool)
    assert dropped(pool) == 12
    expect_full_capacity(pool)


def test_what_a_failing_thread_held_is_free_again_once_its_traceback_is(
    stub_pool: MakePool,
) -> None:
    pool = stub_pool(max_size=1)

    def fail() -> None:
        conn = pool.getconn(PATIENCE)
        raise ZeroDivisionError(conn.number)

    failed = in_thread(fail)
    error = failed.exception(PATIENCE)
    assert isinstance(error, ZeroDivisionError)
    del failed, error
    expect_full_capacity(pool)


class Owner:
    def __init__(self) -> None:
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive


def test_what_is_lent_to_an_owner_that_is_not_alive_is_taken_back_when_the_pool_is_exhausted(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=2)
    dead, living = Owner(), Owner()
    kept = [pool.getconn(), pool.getconn()]  # as a traceback, or a framework, keeps them
    pool.own(kept[0], dead)
    pool.own(kept[1], living)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    dead.alive = False
    third = pool.getconn(timeout=PATIENCE)
    assert kept[0].closed
    assert not kept[1].closed
    stats = pool.get_stats()
    assert stats["connections_closed"] == {"abandoned": 1}
    assert stats["connections_dropped"] == 1
    with pytest.raises(ValueError, match="has not lent"):
        pool.putconn(kept[0])
    pool.putconn(third)
    pool.putconn(kept[1])
    expect_full_capacity(pool)


def test_an_owner_of_before_loses_nobody_the_connection_that_is_just_being_lent(
    stub_pool: MakePool,
) -> None:
    """Whoever is waiting looks for dead owners as soon as the connection is among the loans."""
    pool = stub_pool(max_size=1)
    owner = Owner()
    conn = pool.getconn()
    pool.own(conn, owner)
    pool.putconn(conn)
    owner.alive = False

    class Watched(dict[int, Any]):
        def __setitem__(self, key: int, value: Any) -> None:
            super().__setitem__(key, value)
            inside.reclaim(pool)

    inside.put(pool, in_use=Watched())
    again = pool.getconn()
    assert again is conn
    assert not again.closed
    pool.putconn(again)
    expect_full_capacity(pool)


def test_a_thread_is_such_an_owner(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    kept: list[Any] = []

    def take() -> None:
        kept.append(pool.getconn())
        pool.own(kept[0], threading.current_thread())

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    pool.putconn(pool.getconn(timeout=PATIENCE))
    assert kept[0].closed


def test_an_owner_answers_for_one_loan_only(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    owner = Owner()
    conn = pool.getconn()
    pool.own(conn, owner)
    pool.putconn(conn)
    owner.alive = False
    with lent(pool, 1) as (again,):
        assert again is conn
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.05)
        assert not conn.closed
    del again
    expect_full_capacity(pool)


def test_a_dead_thread_alone_proves_nothing(stub_pool: MakePool) -> None:
    """Whoever made it may have passed it on: async views finish on threads that die first."""
    pool = stub_pool(max_size=1)
    passed_on: list[Any] = []
    thread = threading.Thread(target=lambda: passed_on.append(pool.getconn()))
    thread.start()
    thread.join()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.05)
    assert not passed_on[0].closed
    pool.putconn(passed_on.pop())
    expect_full_capacity(pool)


def test_own_refuses_what_is_not_lent(stub_pool: MakePool) -> None:
    pool = stub_pool()
    conn = pool.getconn()
    pool.putconn(conn)
    for stranger in (conn, object()):
        with pytest.raises(ValueError, match="has not lent this connection"):
            pool.own(stranger, Owner())


@pytest.fixture
def constant_collection() -> Iterator[None]:
    """Collect at every allocation, so that finalisers run inside the pool's own code."""
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    ended = threading.Event()

    def collect() -> None:
        while not ended.wait(0.002):
            gc.collect()

    collector = threading.Thread(target=collect)
    if inside.FREE_THREADED:  # which collects only when a quarter of all there is is new
        collector.start()
    yield
    ended.set()
    if collector.is_alive():
        collector.join()
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("constant_collection")
@pytest.mark.parametrize("background", [True, False])
def test_finalisers_in_the_middle_of_the_pools_code_do_no_harm(
    background: bool, stub_pool: MakePool
) -> None:
    pool = stub_pool(max_size=3, background=background)

    def work(number: int) -> None:
        for turn in range(30):
            conn = pool.getconn(PATIENCE)
            if (number + turn) % 3 == 0:
                Cycle(conn)
                del conn
            elif (number + turn) % 3 == 1:
                del conn
            else:
                pool.putconn(conn)

    callers = [in_thread(work, number) for number in range(4)]
    for caller in callers:
        caller.result(2 * PATIENCE)
    gc.set_threshold(700)
    settled(pool)
    stats = pool.get_stats()
    assert stats["requests_num"] == 120
    assert stats["connections_dropped"] == 80
    assert stats["requests_errors"] == 0
    expect_full_capacity(pool)


def test_ids_that_come_again_free_no_slot_twice(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=2, background=False)
    seen: set[int] = set()
    again = 0
    with lent(pool, 1):
        for _ in range(200):
            conn = pool.getconn()
            again += id(conn) in seen
            seen.add(id(conn))
            del conn
        # Where there is no GIL, memory may wait for its thread, and no id comes again.
        assert again > 0 or inside.FREE_THREADED, "no id came again: the test tests nothing"
        settled(pool)
        assert pool.get_stats()["pool_size"] == 1
    assert dropped(pool) == 200
    expect_full_capacity(pool)


def test_an_exception_keeps_what_it_saw_and_no_slot(stub_pool: MakePool) -> None:
    """A traceback holds the frame that holds the connection; with the block it does not matter."""
    pool = stub_pool(max_size=1)
    errors: list[BaseException] = []

    def fail(use: Callable[[], Any]) -> None:
        try:
            use()
        except ZeroDivisionError as error:
            errors.append(error)

    def in_block() -> None:
        with pool.connection():
            raise ZeroDivisionError

    fail(in_block)
    expect_full_capacity(pool)
    assert len(errors) == 1


def test_an_owner_that_cannot_say_whether_it_lives_is_refused(stub_pool: MakePool) -> None:
    """Else whoever next finds the pool exhausted would get that error."""
    pool = stub_pool(max_size=1)
    with lent(pool, 1) as (conn,):
        with pytest.raises(TypeError, match="owner is of type object"):
            pool.own(conn, object())
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
