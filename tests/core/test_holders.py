"""A caller that gets no connection is told who has them: the threads that live on with one."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolTimeout
from tests.support.callers import MakePool, expect_full_capacity, lent
from tests.support.gate import Gate


def told(pool: ConnectionPool) -> str:
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0)
    return str(caught.value)


def take_in(name: str, pool: ConnectionPool, taken: list[Any], end: threading.Event | None) -> Any:
    """Borrow in a thread of that name, which lives until the event is set."""
    ready = threading.Event()

    def run() -> None:
        taken.append(pool.getconn())
        ready.set()
        if end is not None:
            end.wait()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    ready.wait()
    if end is None:
        thread.join()
    return thread


def test_the_error_names_the_threads_that_hold_connections_and_for_how_long(
    stub_pool: MakePool,
) -> None:
    pool = stub_pool(max_size=5)
    taken: list[Any] = []
    end = threading.Event()
    threads = [take_in(f"huey-{number}", pool, taken, end) for number in range(5)]
    try:
        text = told(pool)
        assert "5 of 5 in use" in text
        assert "held for up to " in text
        assert "by threads: 'huey-0', 'huey-1', 'huey-2' and 2 more: return" in text
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert "by threads: 5 that have ended: return" in told(pool)
    for conn in taken:
        pool.putconn(conn)
    del conn
    taken.clear()
    expect_full_capacity(pool)


def test_the_error_tells_the_living_from_those_that_have_ended(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    taken: list[Any] = []
    take_in("gone", pool, taken, None)
    with lent(pool, 1):
        assert "'MainThread' and a thread that has ended: return connections" in told(pool)
    pool.putconn(taken.pop())
    expect_full_capacity(pool)


def test_nobody_is_named_where_the_pool_is_not_full(stub_pool: MakePool, gate: Gate) -> None:
    assert "by threads" not in told(stub_pool(max_size=2))


def test_a_long_name_is_cut(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    taken: list[Any] = []
    take_in("x" * 500, pool, taken, None)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    end = threading.Event()
    pool.putconn(taken.pop())
    thread = take_in("x" * 500, pool, taken, end)
    try:
        assert f"'{'x' * 40}': return" in told(pool)
    finally:
        end.set()
        thread.join()
    pool.putconn(taken.pop())
