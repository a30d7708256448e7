"""A fork while another thread connects: the child can connect, and its wait has an end.

The C libraries below a connect have locks that do not survive a fork: one that is held then is
held in the child for ever.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolTimeout
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    gave_up_until,
    in_thread,
)
from tests.support.forking import DRIVER, Child, in_child
from tests.support.injection import explore
from tests.support.servers import Postgres
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.threads import pool_threads
from tests.support.waiting import wait_until

# 3.12 and later warn of any fork with threads about; that is what is tested here.
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


gate = partial(inside.peek, inside.fork_gate)  # what it has noted, by name


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have forks wait for connects as long as that takes on a busy machine."""
    inside.patch(monkeypatch, "FORK_PATIENCE", PATIENCE)


@contextmanager
def always_connecting(*pools: ConnectionPool) -> Iterator[None]:
    """Have a thread per pool that connects over and over."""
    end = threading.Event()

    def connect(pool: ConnectionPool) -> int:
        count = 0
        while not end.is_set():
            pool.putconn(pool.getconn(PATIENCE), close=True)
            count += 1
        return count

    threads = [in_thread(connect, pool) for pool in pools]
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            assert thread.result(PATIENCE) > 0


class Library:
    """A lock such as C libraries have, held for some of each connect."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, _: object) -> None:
        assert self._lock.acquire(timeout=PATIENCE), "held by a thread that is not in this process"
        try:
            time.sleep(0.003)
        finally:
            self._lock.release()


@pytest.mark.usefixtures("patient")
def test_no_lock_of_a_connect_is_held_at_a_fork(stub_pool: MakePool, stub: StubDriver) -> None:
    stub.hooks["connect"] = Library()
    pools = [stub_pool(max_size=1) for _ in range(2)]
    with always_connecting(*pools):
        for _ in range(20):
            for pool in pools:
                in_child(lambda pool=pool: pool.putconn(pool.getconn(timeout=PATIENCE / 2)))
    for pool in pools:
        expect_full_capacity(pool)


@pytest.mark.usefixtures("patient")
def test_a_connect_that_a_caller_makes_itself_is_waited_for_too(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    stub.hooks["connect"] = Library()
    pools = [stub_pool(max_size=1, background=False) for _ in range(2)]
    with always_connecting(*pools):
        for _ in range(20):
            in_child(lambda: pools[0].putconn(pools[0].getconn()))


@pytest.mark.usefixtures("patient")
def test_forks_of_several_threads_at_once_find_no_connect_under_way(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    stub.hooks["connect"] = Library()
    pools = [stub_pool(max_size=1) for _ in range(2)]

    def fork() -> None:
        for _ in range(10):
            in_child(lambda: pools[0].putconn(pools[0].getconn(timeout=PATIENCE / 2)))

    with always_connecting(*pools):
        for thread in [in_thread(fork) for _ in range(3)]:
            thread.result(4 * PATIENCE)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which threads are there")
@pytest.mark.usefixtures("patient")
def test_a_thread_that_has_connected_is_gone_before_a_fork(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """When it ends, libraries clean up after it, by their locks, when it has left Python."""
    libc = ctypes.CDLL(None)
    key = ctypes.c_uint()
    assert libc.pthread_key_create(ctypes.byref(key), libc.usleep) == 0
    threads: list[int] = []

    def end_slowly(_: object) -> None:
        threads.append(threading.get_native_id())
        assert libc.pthread_setspecific(key, ctypes.c_void_p(500_000)) == 0

    stub.hooks["connect"] = end_slowly
    pool = stub_pool(max_size=1)
    for _ in range(3):
        pool.putconn(pool.getconn(), close=True)
        wait_until(lambda: not pool_threads(), PATIENCE)
        in_child(lambda: None)
        assert str(threads[-1]) not in os.listdir("/proc/self/task")
    assert not set(threads) & gate("connected").keys()
    assert libc.pthread_key_delete(key) == 0


def test_threads_that_have_connected_are_not_remembered_for_ever(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "FORK_MANY", 8)
    pool = stub_pool(max_size=1)
    for _ in range(40):
        pool.putconn(pool.getconn(), close=True)
        wait_until(lambda: not pool_threads(), PATIENCE)
    assert len(gate("connected")) <= 8


def test_looking_at_the_threads_keeps_nothing_of_theirs_alive(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """A connection that a thread drops meanwhile is found at once, not by a garbage collection."""
    pool = stub_pool(max_size=1, background=False)
    there, looked = threading.Event(), threading.Event()
    stub.hooks["connect"] = lambda _: threads.append(threading.get_native_id())
    threads: list[int] = []

    def borrow() -> None:
        conn = pool.getconn()
        there.set()
        looked.wait(PATIENCE)
        assert conn.number  # its last use: the frame ends with it

    gc.disable()
    try:
        borrowing = in_thread(borrow)
        assert there.wait(PATIENCE)
        assert threads[0] in gate("connected")
        gate("leaving")()
        looked.set()
        borrowing.result(PATIENCE)
        wait_until(lambda: inside.find_lost(pool) is None and not inside.entries(pool), PATIENCE)
    finally:
        gc.enable()


@pytest.fixture(scope="module", params=["plain", "tls"])
def localhost(request: pytest.FixtureRequest) -> Iterator[str]:
    """The conninfo of a server by name and TCP: with all that libpq asks of other libraries."""
    with PostgresServer(ssl=request.param == "tls") as server:
        yield server.dsn(host="localhost")


def many_forks(count: int, dsn: str, new_pool: MakePool) -> None:
    pools = [new_pool(dsn, driver=DRIVER, max_size=1) for _ in range(2)]

    def child() -> int:
        with pools[0].connection(PATIENCE / 2) as conn:
            return int(one(conn, "SELECT pg_backend_pid()"))

    seen = [0]
    with always_connecting(*pools):
        for number in range(count):
            time.sleep(number % 7 * 0.001)
            seen.append(in_child(child))
    # Of many sessions the operating system gives numbers again; not in a row.
    assert all(before != after for before, after in pairwise(seen))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("count", [20, pytest.param(60, marks=pytest.mark.exhaustive)])
def test_children_of_a_process_that_connects_all_the_time_can_connect(
    localhost: str, new_pool: MakePool, count: int
) -> None:
    many_forks(count, localhost, new_pool)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("patient")
def test_a_thousand_children_of_a_process_that_connects_all_the_time_can_connect(
    localhost: str, new_pool: MakePool
) -> None:
    many_forks(1000, localhost, new_pool)


@contextmanager
def hanging_connect(pool: ConnectionPool, stub: StubDriver) -> Iterator[None]:
    """Have a connect under way that does not end before the block does."""
    go, entered = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        entered.set()
        go.wait(PATIENCE)

    stub.hooks["connect"] = hang
    caller = in_thread(pool.getconn, PATIENCE)
    try:
        assert entered.wait(PATIENCE)
        yield
        assert inside.attempts(pool), "the connect has ended: nothing was tested"
    finally:
        go.set()
        pool.putconn(caller.result(PATIENCE))


def test_a_fork_does_not_wait_for_a_connect_that_hangs(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=2)
    known = (gate("forks"), gate("connects"), gate("connected"))
    with hanging_connect(pool, stub):
        assert gate("connects")
        assert in_child(lambda: [len(one) for one in known]) == [0, 0, 0]
        assert not gate("forks")
    assert not gate("connects")
    expect_full_capacity(pool)


def test_a_child_whose_connect_hangs_for_ever_is_told_at_its_timeout(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """What waiting could not prevent: each caller gets an error that says what does not answer."""
    pool = stub_pool(max_size=2)

    def child() -> list[str]:
        said = []
        gave_up_until(lambda: len(inside.attempts(pool)) > 0, pool)
        for _ in range(3):
            with pytest.raises(PoolTimeout) as caught:
                pool.getconn(timeout=0.1)
            said.append(str(caught.value))
        return said

    with hanging_connect(pool, stub):
        said = in_child(child)
    assert len(said) == 3
    assert all("connecting takes too long" in text for text in said)


def test_a_connect_goes_on_after_a_fork_that_never_ended(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an exception struck in the hooks: connects are late, once, and none is lost."""
    inside.patch(monkeypatch, "FORK_LONGEST", 0.2)
    gate("forks")[-1] = time.monotonic()
    try:
        pool = stub_pool(max_size=2)
        expect_full_capacity(pool)
        assert not gate("another_forks")(gate("thread_id")())
    finally:
        gate("forks").clear()


def test_who_forks_inside_its_own_connect_waits_for_nobody(
    stub_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler, say; and greenlets, which share their thread."""
    inside.patch(monkeypatch, "fork_sleep", lambda _: pytest.fail("it waits for itself"))
    stub.hooks["connect"] = lambda _: in_child(lambda: None)
    pool = stub_pool(max_size=1, background=False)
    expect_full_capacity(pool)


def test_an_exception_at_any_point_leaves_no_connect_that_forks_wait_for() -> None:
    def scenario(run: Callable[[Callable[[], object]], None]) -> Callable[[str], None]:
        def connect() -> None:
            with inside.NoFork():
                pass

        run(connect)

        def check(where: str) -> None:
            assert not in_thread(gate("another_connects"), -1).result(PATIENCE)
            assert not gate("connects")

        return check

    assert explore(inside.fork_gate.__file__, scenario) > 5


def test_parent_and_child_connect_as_before_once_it_is_over(
    postgres: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(postgres.dsn(), max_size=2)
    forked: list[Child[Any]] = [Child(lambda: expect_full_capacity(pool)) for _ in range(3)]
    expect_full_capacity(pool)
    for child in forked:
        child.result()
    wait_until(lambda: not gate("forks") and not gate("connects"), PATIENCE)
