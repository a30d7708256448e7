"""A callback that overruns its deadline without noticing: its connection is cut, and not lent."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from dbpool import PoolTimeout
from dbpool.drivers.base import Driver
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    wait_for_waiters,
)
from tests.support.sessions import one
from tests.support.waiting import wait_until

SOON = 0.2  # seconds


def answered_and_then_late(conn: Any) -> None:
    """Ask the server, which answers; then be busy with something else until it is cut off."""
    one(conn, "SELECT 1")
    conn.rollback()
    received = socket.socket(fileno=os.dup(conn.fileno()))
    with received:
        received.settimeout(PATIENCE)
        assert received.recv(1) == b"", "it is cut off"


class Once:
    """A callback that is late the first time only."""

    def __init__(self, late: Callable[[Any], None]) -> None:
        self.late = late
        self.calls = 0

    def __call__(self, conn: Any) -> None:
        self.calls += 1
        if self.calls == 1:
            self.late(conn)


@pytest.mark.parametrize("callback", ["check", "configure", "reset"])
def test_what_was_cut_off_behind_a_callbacks_back_is_not_lent(
    callback: str, pg_pool: MakePool
) -> None:
    late = Once(answered_and_then_late)
    seconds = {"connect_timeout" if callback == "configure" else "ping_timeout": SOON}
    pool = pg_pool(max_size=1, timeout=PATIENCE, **{callback: late}, **seconds)
    for _ in range(2):
        with pool.connection() as conn:
            assert one(conn, "SELECT 1") == 1
    assert late.calls > 1
    expect_full_capacity(pool)


def test_who_waits_on_a_check_that_is_always_late_is_told_so(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1, check=answered_and_then_late, ping_timeout=SOON)
    with pytest.raises(PoolTimeout, match=r"TimeoutError") as caught:
        pool.getconn(timeout=1.0)
    assert "the connection is cut off" in str(caught.value.__cause__)


def test_who_was_late_by_a_check_is_told_how_many_others_wait(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It queues no more itself when it is told."""
    refuse = threading.Event()
    calls: list[int] = []

    def check(conn: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            assert refuse.wait(PATIENCE)
            raise ValueError("not good")

    inside.patch(monkeypatch, "MIN_ASK", 0.01)
    pool = stub_pool(max_size=1, check=check)
    pool.putconn(pool.getconn(PATIENCE))
    late = time.monotonic() + 0.1
    first = in_thread(pool.getconn, 0.1)
    wait_until(lambda: len(calls) == 2, PATIENCE)
    others = [in_thread(pool.getconn, PATIENCE) for _ in range(2)]
    wait_for_waiters(pool, 2)
    wait_until(lambda: time.monotonic() > late + 0.05, PATIENCE, "its time is up")
    refuse.set()
    error = first.exception(PATIENCE)
    assert isinstance(error, PoolTimeout)
    pool.close()
    assert error.waiting == 2
    assert "2 others waiting" in str(error)
    for other in others:
        assert other.exception(PATIENCE)


def test_a_deadline_cuts_no_socket_that_took_the_number_of_its_own() -> None:
    """Libpq closes a broken socket in the midst of a call, and another thread connects then."""
    ours, theirs = socket.socketpair()

    class Closing:
        """Its descriptor is closed as soon as it has been told, and taken by another socket."""

        OperationalError = psycopg2.OperationalError
        _driver: Any
        _background = True
        _open = True
        cut_off = Driver.cut_off  # type: ignore[assignment]

        def __init__(self) -> None:
            self._driver = self

        def fileno(self, conn: Any) -> int | None:
            was_open, self._open = self._open, False
            if was_open:
                self.once = mine.fileno()
                os.dup2(ours.fileno(), mine.fileno())
            return self.once if was_open else None

        def transaction_status(self, conn: Any) -> int:
            return 4

    mine, other = socket.socketpair()
    driver = Closing()
    with ours, theirs, mine, other:
        with pytest.raises(TimeoutError), inside.TimeLimit(driver, None, 0.01) as guard:  # type: ignore[arg-type]
            wait_until(lambda: guard.fired, PATIENCE)
        theirs.send(b"x")
        assert ours.recv(1) == b"x", "an innocent socket was shut down"


def test_the_ping_that_ends_as_it_is_cut_off_proves_nothing(
    pg_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a process that was stopped for a while: the answer and the deadline are both there."""
    pool = pg_pool(max_size=1, validate="ping", ping_timeout=SOON, timeout=PATIENCE)
    with pool.connection():
        pass
    driver = type(pool.driver)
    ping = driver.ping
    left = [1]

    def late(self: Any, conn: Any) -> None:
        ping(self, conn)
        if left:
            left.pop()
            answered_and_then_late(conn)

    monkeypatch.setattr(driver, "ping", late)
    with pool.connection() as conn:
        assert one(conn, "SELECT 1") == 1
    assert not left
