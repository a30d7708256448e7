"""Whatever a callback raises, and wherever it runs, no slot is lost and nothing stays open."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from dbpool import ConnectionPool, Misconfigured, PoolClosed, PoolError
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    settled,
    unseen_by_the_keeper,
)
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

# In a connector's thread there is nobody else to tell.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Fault(Exception):
    """A mistake of the user's."""


class Raising:
    """Raises at every second call, so many times."""

    def __init__(self, kind: type[BaseException], times: int = 2) -> None:
        self.kind, self.times = kind, times
        self.calls = self.raised = 0

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        if self.calls % 2 and self.raised < self.times:
            self.raised += 1
            raise self.kind

    def string(self) -> str:
        """Be a conninfo."""
        self()
        return ""

    def mapping(self) -> dict[str, str]:
        """Be kwargs."""
        self()
        return {}


def use(pool: ConnectionPool, callback: Raising) -> None:
    """Borrow until the callback has raised all that it wants to."""
    turns = itertools.count()

    def once() -> bool:
        conn = None
        try:
            conn = pool.getconn(timeout=PATIENCE)
            StubDriver.begin(conn)
        except (callback.kind, Misconfigured):  # the latter tells of one in a connect
            pass
        try:
            if conn is not None:
                pool.putconn(conn, close=next(turns) % 2 == 0)
        except callback.kind:
            pass
        # In the pause after a failed connect a caller is refused at once.
        return callback.raised == callback.times and conn is not None

    wait_until(once, PATIENCE, lambda: f"it was called {callback.calls} times only")


def expect_nothing_lost(pool: ConnectionPool, stub: StubDriver) -> None:
    expect_full_capacity(pool)
    gc.collect()
    assert stub.open_connections == pool.get_stats()["pool_size"], "one is open and unknown"
    assert pool.get_stats()["requests_waiting"] == 0
    assert pool.get_stats()["connections_dropped"] == 0, "it is put down to a careless borrower"


WAYS: dict[str, Callable[[Raising], dict[str, Any]]] = {
    "conninfo": lambda callback: {"conninfo": callback.string},
    "kwargs": lambda callback: {"kwargs": callback.mapping},
    "configure": lambda callback: {"configure": callback},
    "check": lambda callback: {"check": callback},
    "reset": lambda callback: {"reset": callback},
}


@pytest.mark.parametrize("background", [True, False], ids=["threads", "no threads"])
@pytest.mark.parametrize("kind", [Fault, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("way", WAYS)
def test_a_callback_that_raises_costs_at_most_the_connection_in_hand(
    way: str, kind: type[BaseException], background: bool, new_pool: MakePool, stub: StubDriver
) -> None:
    callback = Raising(kind)
    options = WAYS[way](callback)
    pool = new_pool(driver=stub, max_size=3, background=background, **options)
    use(pool, callback)
    expect_nothing_lost(pool, stub)


@pytest.mark.parametrize("background", [True, False], ids=["threads", "no threads"])
@pytest.mark.parametrize("kind", [Fault, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["close", "rollback", "restore", "connect", "ping"])
def test_a_driver_that_raises_costs_at_most_the_connection_in_hand(
    step: str, kind: type[BaseException], background: bool, stub_pool: MakePool, stub: StubDriver
) -> None:
    """Not that ours do: theirs are what a user's own driver may do."""
    callback = Raising(kind)
    stub.hooks[step] = callback

    def change(conn: Any) -> None:
        conn.setting = "changed by the check"  # so that there is something to restore

    check = change if step == "restore" else None
    pool = stub_pool(max_size=3, validate="ping", background=background, check=check)
    use(pool, callback)
    expect_nothing_lost(pool, stub)


@pytest.mark.parametrize("kind", [Fault, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("end", ["close", "drain", "resize", "check"])
def test_all_idle_ones_go_though_closing_one_of_them_raises(
    end: str, kind: type[BaseException], stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=4)
    expect_full_capacity(pool)
    unseen_by_the_keeper(pool)  # whose thread would keep the error, and with it what was closed
    stub.hooks["close"] = callback = Raising(kind)
    act = {
        "close": lambda: pool.close(timeout=PATIENCE),
        "drain": pool.drain,
        "resize": lambda: pool.resize(0, 1),
        "check": pool.check,
    }[end]
    if end == "check":
        stub.hooks["ping"] = Raising(Fault, times=4)

    def again() -> bool:
        try:
            act()
        except kind:
            return False
        return True

    wait_until(again, PATIENCE)
    assert callback.raised >= 1
    stub.hooks.clear()
    if pool.closed:
        settled(pool)
        gc.collect()
        assert stub.open_connections == 0
    else:
        expect_nothing_lost(pool, stub)


@pytest.mark.parametrize("background", [True, False], ids=["threads", "no threads"])
@pytest.mark.parametrize("kind", [Fault, SystemExit, KeyboardInterrupt])
def test_reconnect_failed_may_raise(
    kind: type[BaseException],
    background: bool,
    stub_pool: MakePool,
    stub: StubDriver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside.patch(monkeypatch, "MAX_PAUSE", 0.2)
    told = Raising(kind)
    calls = itertools.count(1)
    enough = 5

    def fail(_: object) -> None:
        if next(calls) <= enough or not told.raised:
            raise Fault

    stub.hooks["connect"] = fail
    pool = stub_pool(
        max_size=2, background=background, reconnect_timeout=0.05, reconnect_failed=told
    )

    def served() -> bool:
        try:
            pool.putconn(pool.getconn(timeout=PATIENCE))
        except (kind, PoolError):
            return False
        return True

    wait_until(served, 4 * PATIENCE)
    assert told.raised >= 1
    expect_nothing_lost(pool, stub)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("where", ["conninfo", "kwargs", "configure"])
def test_a_callback_may_close_the_pool_and_does_not_wait_for_itself(
    where: str, background: bool, stub: StubDriver
) -> None:
    closed: list[float] = []

    def close(*_: object) -> Any:
        before = time.monotonic()
        pool.close(timeout=PATIENCE)
        closed.append(time.monotonic() - before)
        return {} if where == "kwargs" else ""

    given: dict[str, Any] = {where: close}
    pool = ConnectionPool(driver=stub, background=background, open=False, **given)
    pool.open()
    with pytest.raises(PoolClosed):
        pool.getconn(timeout=PATIENCE)
    wait_until(lambda: bool(closed), 2 * PATIENCE)
    assert closed[0] < PATIENCE
    settled(pool)
    assert stub.open_connections == 0
