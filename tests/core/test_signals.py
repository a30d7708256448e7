"""Signals: Ctrl-C while waiting costs no slot, and a handler may use the pool wherever it comes."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import dbpool
from dbpool import ConnectionPool, PoolClosed, PoolTimeout
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
from tests.support.forking import in_child
from tests.support.gate import Gate
from tests.support.injection import POINTS, explore, quiet_collector
from tests.support.servers import Postgres
from tests.support.sessions import held_lock, last_query, one
from tests.support.stub_driver import StubConnection, StubDriver, StubError
from tests.support.waiting import wait_until

LOCK = 20_481  # an advisory lock that no other test has
PACKAGE = os.path.dirname(dbpool.__file__) + os.sep


@contextmanager
def ctrl_c(when: Callable[[], object], then: Callable[[], object] = int) -> Iterator[None]:
    """Send this process a real SIGINT as soon as the condition holds; it must end the block.

    `then` is called once it has been sent: psycopg2 hears it when the server has answered.
    """
    over = threading.Event()
    # Who has just been served may stand in the queue for a moment yet: not the block's doing.
    wait_until(lambda: not when(), PATIENCE)

    def send() -> None:
        wait_until(lambda: over.is_set() or when(), PATIENCE)
        if not over.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            then()

    sending = in_thread(send)
    try:
        yield
        over.wait(PATIENCE)
    except KeyboardInterrupt:
        over.set()
    else:
        raise AssertionError("the signal did not come through")
    finally:
        over.set()
        sending.result(PATIENCE)


def waiting(pool: ConnectionPool) -> Callable[[], bool]:
    return lambda: bool(pool.get_stats()["requests_waiting"])


# Ctrl-C


@pytest.mark.parametrize("background", [True, False])
def test_ctrl_c_while_waiting_for_a_connection_costs_no_slot(
    background: bool, stub_pool: MakePool
) -> None:
    pool = stub_pool(max_size=2, background=background)
    with lent(pool, 2):
        began = time.monotonic()
        with ctrl_c(waiting(pool)):
            pool.getconn(timeout=10 * PATIENCE)
        assert time.monotonic() - began < PATIENCE, "it was not interrupted but timed out"
        assert pool.get_stats()["requests_waiting"] == 0
    expect_full_capacity(pool)


def test_ctrl_c_in_the_midst_of_waiters_lets_the_next_one_be_served(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    with lent(pool, 1):
        first = in_thread(pool.getconn, PATIENCE)
        wait_for_waiters(pool, 1)
        with ctrl_c(lambda: pool.get_stats()["requests_waiting"] == 2):
            pool.getconn(timeout=10 * PATIENCE)
        last = in_thread(pool.getconn, PATIENCE)
        wait_for_waiters(pool, 2)
    pool.putconn(first.result(PATIENCE))
    pool.putconn(last.result(PATIENCE))
    expect_full_capacity(pool)


def test_ctrl_c_while_a_connect_is_awaited_leaves_the_connection_to_the_pool(
    stub_pool: MakePool, stub: StubDriver, gate: Gate
) -> None:
    pool = stub_pool(max_size=1)
    with ctrl_c(lambda: gate.inside == 1):
        pool.getconn(timeout=10 * PATIENCE)
    gate.open()
    expect_full_capacity(pool)
    assert len(stub.made) == 1


@pytest.mark.parametrize("where", ["connect", "configure"])
def test_ctrl_c_in_a_connect_that_the_caller_makes_itself_costs_no_slot(
    where: str, stub_pool: MakePool, stub: StubDriver
) -> None:
    entered = threading.Event()

    def slow(_: object) -> None:
        if not entered.is_set():
            entered.set()
            threading.Event().wait(PATIENCE)

    options: dict[str, Any] = {"configure": slow} if where == "configure" else {}
    if where == "connect":
        stub.hooks["connect"] = slow
    pool = stub_pool(max_size=1, background=False, **options)
    with ctrl_c(entered.is_set):
        pool.getconn(timeout=10 * PATIENCE)
    expect_full_capacity(pool)
    assert stub.open_connections == 1


@pytest.mark.parametrize("where", ["ping", "rollback", "restore", "reset", "check"])
def test_ctrl_c_in_what_the_pool_does_with_a_connection_costs_no_slot(
    where: str, stub_pool: MakePool, stub: StubDriver
) -> None:
    entered = threading.Event()
    armed: list[bool] = []

    def slow(_: object) -> None:
        if armed and not entered.is_set():
            entered.set()
            threading.Event().wait(PATIENCE)

    options: dict[str, Any] = {}
    if where in ("reset", "check"):
        options[where] = slow
    else:
        stub.hooks[where] = slow
    pool = stub_pool(max_size=1, validate="ping", ping_timeout=10 * PATIENCE, **options)
    with lent(pool, 1):
        pass
    armed.append(True)

    def use() -> None:
        conn = pool.getconn()
        stub.begin(conn)
        conn.setting = "mine"
        pool.putconn(conn)

    with ctrl_c(entered.is_set):
        use()
    expect_full_capacity(pool)
    assert stub.open_connections == 1


@pytest.mark.parametrize("where", ["commit", "close"])
def test_ctrl_c_while_a_block_ends_costs_no_slot(
    where: str, stub_pool: MakePool, stub: StubDriver
) -> None:
    entered = threading.Event()

    def slow(_: object) -> None:
        if not entered.is_set():
            entered.set()
            threading.Event().wait(PATIENCE)

    stub.hooks[where] = slow
    pool = stub_pool(max_size=1)
    with ctrl_c(entered.is_set), pool.connection() as conn:
        stub.begin(conn)
        conn.alive = where != "close"
        if where == "close":
            raise StubError
    del conn
    expect_full_capacity(pool)
    assert stub.open_connections == 1
    assert pool.get_stats()["connections_dropped"] == 0


def test_ctrl_c_while_the_pool_fills_or_closes_can_be_repeated(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    pool = stub_pool(min_size=1, max_size=1)
    with ctrl_c(lambda: inside.filling(pool)):
        pool.wait(timeout=10 * PATIENCE)
    assert not pool.closed
    with ctrl_c(lambda: pool.closed):
        pool.close(timeout=10 * PATIENCE)
    go.set()
    pool.close(timeout=PATIENCE)
    settled(pool)
    assert stub.open_connections == 0


def test_ctrl_c_in_a_query_costs_the_connection_and_nobody_reads_its_answer(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=1)
    with lent(pool, 1) as (conn,):
        pid = conn.info.backend_pid
    del conn

    def use() -> None:
        with pool.connection() as conn:
            one(conn, f"SELECT pg_advisory_xact_lock({LOCK}) IS NULL")

    with held_lock(postgres.dsn(), LOCK) as let_go:
        with ctrl_c(lambda: "pg_advisory" in last_query(postgres, pid), then=let_go):
            use()
    with pool.connection() as conn:
        assert conn.info.backend_pid != pid
        assert one(conn, "SELECT 'mine'") == "mine"
    expect_full_capacity(pool)


def test_two_ended_threads_a_forked_child_and_a_ctrl_c_leave_every_slot_usable(
    pg_pool: MakePool,
) -> None:
    pool = pg_pool(max_size=2)

    def take_and_end() -> None:
        conn = pool.getconn(PATIENCE)
        assert one(conn, "SELECT 1") == 1

    for _ in range(2):
        thread = threading.Thread(target=take_and_end)
        thread.start()
        thread.join(PATIENCE)
    with lent(pool, 2), ctrl_c(waiting(pool)):
        pool.getconn(timeout=10 * PATIENCE)
    in_child(lambda: expect_full_capacity(pool))
    expect_full_capacity(pool)
    with lent(pool, 2) as taken:
        assert [one(conn, "SELECT 2") for conn in taken] == [2, 2]


# A handler that uses the pool

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Timeout(BaseException):
    """What a worker's alarm raises to end a request."""


def test_an_alarm_that_raises_while_waiting_costs_no_slot(stub_pool: MakePool) -> None:
    def ring(number: int, frame: object) -> None:
        raise Timeout

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        pool = stub_pool(max_size=1)
        for _ in range(5):
            with lent(pool, 1):
                killing = in_thread(
                    lambda: (wait_for_waiters(pool, 1), os.kill(os.getpid(), signal.SIGUSR1))
                )
                with pytest.raises(Timeout):
                    pool.getconn(timeout=10 * PATIENCE)
                killing.result(PATIENCE)
        expect_full_capacity(pool)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_may_return_what_the_interrupted_code_waits_for(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    held = [pool.getconn()]
    before = signal.signal(signal.SIGUSR1, lambda *_: pool.putconn(held.pop()))
    try:
        killing = in_thread(
            lambda: (wait_for_waiters(pool, 1), os.kill(os.getpid(), signal.SIGUSR1))
        )
        pool.putconn(pool.getconn(timeout=PATIENCE))
        killing.result(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    expect_full_capacity(pool)


# The same at every point at which the interpreter calls a handler

Use = Callable[[ConnectionPool, StubDriver], object]


def borrow(pool: ConnectionPool, stub: StubDriver) -> None:
    try:
        with pool.connection(timeout=0.001) as conn:
            stub.begin(conn)
    except (PoolTimeout, PoolClosed):
        pass


def borrow_and_close(pool: ConnectionPool, stub: StubDriver) -> None:
    try:
        pool.putconn(pool.getconn(timeout=0.001), close=True)
    except (PoolTimeout, PoolClosed):
        pass


def borrow_and_drop(pool: ConnectionPool, stub: StubDriver) -> None:
    try:
        pool.getconn(timeout=0.001)
    except (PoolTimeout, PoolClosed):
        pass
    inside.find_lost(pool)


def look(pool: ConnectionPool, stub: StubDriver) -> None:
    pool.get_stats()
    pool.pop_stats()
    repr(pool)


def renew(pool: ConnectionPool, stub: StubDriver) -> None:
    pool.drain()


def close(pool: ConnectionPool, stub: StubDriver) -> None:
    pool.close(timeout=0)


HANDLERS: list[Use] = [borrow, borrow_and_close, borrow_and_drop, look, renew, close]
OFTEN: list[Use] = [borrow, close]  # the others are left to `make test-long`


def reuse(pool: ConnectionPool, stub: StubDriver) -> None:
    with pool.connection():
        pass


def first_uses(pool: ConnectionPool, stub: StubDriver) -> None:
    pool.drain()
    with pool.connection() as conn, pool.connection():
        stub.begin(conn)


def dirty_return(pool: ConnectionPool, stub: StubDriver) -> None:
    conn = pool.getconn()
    stub.begin(conn)
    conn.setting = "mine"
    pool.putconn(conn)


def find_dead(pool: ConnectionPool, stub: StubDriver) -> None:
    with pool.connection() as conn:
        conn.alive = False
    with pool.connection():
        pass


def time_out(pool: ConnectionPool, stub: StubDriver) -> None:
    taken: list[StubConnection] = []
    try:
        while True:
            taken.append(pool.getconn(timeout=0.001))
    except PoolTimeout:
        pass
    while taken:
        pool.putconn(taken.pop())


def lose(pool: ConnectionPool, stub: StubDriver) -> None:
    pool.getconn()
    inside.find_lost(pool)


def administer(pool: ConnectionPool, stub: StubDriver) -> None:
    pool.resize(1, 2)
    pool.check()
    inside.upkeep(pool, time.monotonic())
    pool.drain()
    pool.resize(0, 3)


INTERRUPTED: list[Use] = [
    reuse,
    first_uses,
    dirty_return,
    find_dead,
    time_out,
    lose,
    administer,
    look,
    close,
]


def matrix() -> list[Any]:
    """Every pair; the slow ones are marked."""
    slow = (first_uses, time_out, administer)
    return [
        pytest.param(
            interrupted,
            handler,
            id=f"{interrupted.__name__}, {handler.__name__}",
            marks=[pytest.mark.long] if interrupted in slow or handler not in OFTEN else [],
        )
        for interrupted in INTERRUPTED
        for handler in HANDLERS
    ]


@pytest.mark.computes
@pytest.mark.parametrize("every", POINTS)
@pytest.mark.parametrize(("interrupted", "handler"), matrix())
def test_a_handler_may_use_the_pool_at_any_point_of_its_own_code(
    interrupted: Use, handler: Use, every: int
) -> None:
    """It neither waits for a lock of the thread that it interrupts nor finds things half done."""
    current: list[tuple[ConnectionPool, StubDriver]] = []

    def scenario(run: Callable[[Callable[[], object]], None]) -> Callable[[str], None]:
        stub = StubDriver()
        pool = ConnectionPool(driver=stub, max_size=3, validate="ping", background=False)

        most = [0]

        def count(_: object) -> None:
            most[0] = max(most[0], stub.open_connections + 1)

        stub.hooks["connect"] = count
        with lent(pool, 2):
            pass
        current[:] = [(pool, stub)]

        def interruptible() -> None:
            try:
                interrupted(pool, stub)
            except PoolClosed:
                assert handler is close

        run(interruptible)

        def check(where: str) -> None:
            current.clear()
            assert most[0] <= 3, "more than max_size were open"
            if pool.closed:
                pool.close()
                settled(pool)
            else:
                settled_quickly(pool)
                pool.close()
            gc.collect()
            assert stub.open_connections == 0, "a connection is open and unknown"

        return check

    def settled_quickly(pool: ConnectionPool) -> None:
        inside.find_lost(pool)
        inside.audit(pool)
        stats = pool.get_stats()
        closed = sum(stats["connections_closed"].values())
        opened = sum(stats["create_time"]["counts"])
        assert opened == stats["pool_size"] + closed, "counted twice, or not"
        with lent(pool, pool.max_size) as taken:
            assert len({id(conn) for conn in taken}) == pool.max_size
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0)
        inside.audit(pool)

    def act(where: str) -> None:
        handler(*current[0])

    with quiet_collector():
        try:
            assert explore(PACKAGE, scenario, act=act, every=every) > 3
        except (StubError, RuntimeError) as error:
            raise AssertionError(f"{error!r}") from error
