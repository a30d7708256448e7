"""What a signal handler may do, wherever in the pool it comes in."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import inside
from tests.support.callers import PATIENCE, MakePool


@pytest.fixture
def every_millisecond() -> Iterator[list[Any]]:
    """Call what is put into the list from a signal handler, over and over."""
    calls: list[Any] = []
    ended = threading.Event()

    def handle(number: int, frame: object) -> None:
        for call in calls:
            call()

    def interrupt() -> None:
        while not ended.wait(0.001):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt, name="interrupter")
    thread.start()
    yield calls
    ended.set()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_handler_may_close_connections_while_the_pool_looks_through_its_own(
    stub_pool: MakePool, every_millisecond: list[Any]
) -> None:
    pool = stub_pool(max_size=300)
    taken = [pool.getconn() for _ in range(300)]

    def close_one() -> None:
        if taken:
            pool.putconn(taken.pop(), close=True)

    every_millisecond.append(close_one)
    until = time.monotonic() + PATIENCE
    while taken and time.monotonic() < until:
        inside.find_lost(pool)
        pool.get_stats()
    every_millisecond.clear()
    inside.audit(pool)
