"""`wait()` for the minimum: it ends when that is there, whatever it is by then, and in time."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolTimeout
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, in_thread
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until


@pytest.fixture
def one_of_two(stub_pool: MakePool, stub: StubDriver) -> tuple[ConnectionPool, threading.Event]:
    """Return a pool whose second connect hangs until the event is set."""
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE) if stub.made else None
    pool = stub_pool(min_size=2, max_size=2, max_connecting=1)
    wait_until(lambda: len(inside.entries(pool)) == 1, PATIENCE)
    return pool, go


def test_who_waits_for_a_minimum_is_told_that_it_is_there(
    one_of_two: tuple[ConnectionPool, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for itself now and then, too; here that would be too late."""
    pool, go = one_of_two
    inside.patch(monkeypatch, "fill_nap", lambda *_: 10 * PATIENCE)
    waiting = in_thread(pool.wait, 10 * PATIENCE)
    wait_until(lambda: bool(inside.filling(pool)), PATIENCE)
    go.set()
    assert waiting.exception(PATIENCE) is None


def test_who_waits_for_a_minimum_that_is_lowered_waits_no_longer(
    one_of_two: tuple[ConnectionPool, threading.Event],
) -> None:
    pool, go = one_of_two
    waiting = in_thread(pool.wait, PATIENCE / 2)
    wait_until(lambda: bool(inside.filling(pool)), PATIENCE)
    pool.resize(1, 2)
    try:
        assert waiting.exception(PATIENCE) is None
        assert not pool.closed
    finally:
        go.set()


def test_who_waits_in_vain_does_not_wait_for_connects_after_it(
    one_of_two: tuple[ConnectionPool, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, go = one_of_two
    waited: list[float] = []
    close = inside.original("close_pool")

    def noted(lifecycle: Any, timeout: float) -> None:
        waited.append(timeout)
        close(lifecycle, timeout)

    inside.patch(monkeypatch, "close_pool", noted)
    with pytest.raises(PoolTimeout, match=r"1 of min_size=2 connections were open after 0\.10 s"):
        pool.wait(0.1)
    assert waited == [0]
    go.set()
