"""Callers of a pool: in threads of their own, counted while they wait, served to the last slot."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from dbpool import ConnectionPool, PoolDown, PoolError, PoolTimeout
from tests.support import inside
from tests.support.sessions import one
from tests.support.waiting import PATIENCE, wait_until

__all__ = [
    "PATIENCE",
    "Held",
    "MakePool",
    "ask",
    "expect_full_capacity",
    "gave_up_until",
    "in_thread",
    "lent",
    "open_one",
    "settled",
    "told",
    "unseen_by_the_keeper",
    "wait_for_waiters",
]


T = TypeVar("T")
MakePool = Callable[..., ConnectionPool]


def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
    """Call it in a new daemon thread; the future has its result or its exception."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=run, name="caller", daemon=True).start()
    return future


class Held:
    """Another thread holds these locks for the length of the block."""

    def __init__(self, *locks: Any) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        self._holding, self._end = threading.Event(), threading.Event()
        self._thread = in_thread(self._hold)
        assert self._holding.wait(PATIENCE)

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.result(PATIENCE)

    def _hold(self) -> None:
        for lock in self._locks:
            lock.acquire()
        self._holding.set()
        self._end.wait(PATIENCE)
        for lock in self._locks:
            lock.release()


def ask(pool: ConnectionPool) -> int:
    """Have PostgreSQL answer a query; return the session that did."""
    with pool.connection() as conn:
        assert one(conn, "SELECT 42") == 42
        return int(conn.info.backend_pid)


def open_one(pool: ConnectionPool) -> None:
    """Have a connection idle: callers get it in no time, however short the pool's timeout is."""
    pool.putconn(pool.getconn(timeout=PATIENCE))


def told(pool: ConnectionPool, timeout: float | None = None) -> PoolDown:
    """Return what a caller is told who comes now."""
    with pytest.raises(PoolDown) as caught:
        pool.getconn(timeout)
    return caught.value


def wait_for_waiters(pool: ConnectionPool, count: int) -> None:
    """Return when exactly `count` callers are queueing."""
    wait_until(
        lambda: pool.get_stats()["requests_waiting"] == count,
        PATIENCE,
        lambda: f"{count} waiting in {pool!r}, {pool.get_stats()['requests_waiting']} do",
    )


def gave_up_until(condition: Callable[[], bool], pool: ConnectionPool) -> None:
    """Have callers ask in vain until so.

    Where threads are starved, the first one is gone before anything is done for it.
    """

    def gave_up() -> bool:
        with pytest.raises(PoolError):
            pool.getconn(timeout=0.02)
        return condition()

    wait_until(gave_up, PATIENCE)


@contextmanager
def lent(pool: ConnectionPool, count: int) -> Iterator[list[Any]]:
    """Hold so many connections, and return them."""
    taken: list[Any] = []
    try:
        for _ in range(count):
            taken.append(pool.getconn(timeout=PATIENCE))
        yield taken
    finally:
        while taken:
            pool.putconn(taken.pop())


def settled(pool: ConnectionPool) -> None:
    """Come to a quiet point, where no connect is under way, and audit the pool there."""
    name = f"dbpool-connect-{pool.name}"
    wait_until(
        lambda: all(thread.name != name for thread in threading.enumerate()),
        PATIENCE,
        "connects under way end",
    )
    gc.collect()
    inside.find_lost(pool)
    # The keeper may be looking at an idle connection just now: then that is in its hands, for some
    # microseconds. What is broken stays so.
    for _ in range(20):
        try:
            inside.audit(pool)
        except AssertionError as error:
            if "nowhere" not in str(error):
                raise
        else:
            return
        time.sleep(0.01)
    inside.audit(pool)


def unseen_by_the_keeper(pool: ConnectionPool) -> None:
    """Leave it to callers to find what breaks now; on a busy machine the keeper comes first."""
    settled(pool)
    inside.put(pool, due=math.inf)


def expect_full_capacity(pool: ConnectionPool) -> None:
    """Fail unless max_size different connections can be had at once, and not one more."""
    settled(pool)
    with lent(pool, pool.max_size) as taken:
        assert len({id(conn) for conn in taken}) == pool.max_size, "one connection lent twice"
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        inside.audit(pool)
    settled(pool)
