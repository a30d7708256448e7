"""One thread for all pools of a process, which ends with the last of them."""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import dbpool
from dbpool import ConnectionPool
from dbpool.drivers.base import Driver
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    settled,
)
from tests.support.injection import explore
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.threads import KEEPER, pool_threads
from tests.support.waiting import wait_until


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == KEEPER]


@pytest.fixture
def no_keeper() -> Iterator[None]:
    """Begin and end where no pool is left, and so no keeper."""
    gc.collect()
    wait_until(lambda: not keepers(), PATIENCE, "the keeper of earlier tests ends")
    yield
    gc.collect()
    wait_until(lambda: not keepers(), PATIENCE, "the keeper ends with the last pool")


def use(pool: ConnectionPool) -> None:
    with pool.connection(PATIENCE):
        pass


@pytest.mark.usefixtures("no_keeper")
def test_hundreds_of_pools_have_one_thread(stub: StubDriver) -> None:
    before = set(threading.enumerate())  # some of them may end meanwhile
    pools = [ConnectionPool(driver=stub, min_size=1, max_size=2) for _ in range(300)]
    for pool in pools:
        pool.wait(PATIENCE)
    wait_until(lambda: not pool_threads(), PATIENCE, "connectors end")
    assert set(threading.enumerate()) - before == set(keepers())
    assert len(keepers()) == 1
    assert keepers()[0].daemon
    for pool in pools:
        pool.close()


@pytest.mark.usefixtures("no_keeper")
def test_a_pool_that_nobody_uses_starts_no_thread(stub: StubDriver) -> None:
    pool = ConnectionPool(driver=stub)
    assert keepers() == pool_threads() == []
    use(pool)
    assert len(keepers()) == 1
    pool.close()


@pytest.mark.usefixtures("no_keeper")
@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_the_thread_ends_with_the_last_pool(end: str, stub: StubDriver) -> None:
    for _ in range(3):
        first, last = ConnectionPool(driver=stub), ConnectionPool(driver=stub)
        use(first)
        use(last)
        first.close()
        (thread,) = keepers()
        if end == "closed":
            last.close()
        del first, last
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert stub.open_connections == 0


def test_the_keeper_holds_no_pool(stub: StubDriver) -> None:
    ended = threading.Event()
    pool = ConnectionPool(driver=stub, min_size=1)
    pool.wait(PATIENCE)
    weakref.finalize(pool, ended.set)
    del pool
    assert ended.wait(PATIENCE)


def test_one_failing_upkeep_is_logged_and_harms_no_other_pool(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = stub_pool(name="bad"), stub_pool(min_size=1, max_size=1)
    good.wait(PATIENCE)

    def fail(now: float) -> float:
        raise ZeroDivisionError

    inside.patch_of(monkeypatch, bad, "upkeep", fail)
    inside.scheduler.schedule(inside.task(bad), 0.0)
    wait_until(lambda: "upkeep of pool 'bad' failed" in caplog.text, PATIENCE)
    good.drain()
    wait_until(lambda: good.get_stats()["pool_available"] == 1, PATIENCE)


class Pool:
    """What the keeper needs of one."""

    def __init__(self) -> None:
        self.name = "watched"
        self.due = math.inf
        self.called = 0

    def run(self, now: float) -> float:
        self.called += 1
        return math.inf

    def _find_lost(self) -> None:
        pass


def serves(watch: inside.Scheduler, pool: Pool) -> None:
    """Fail unless what is due is done, however often somebody has to ask, as waiters do."""
    before = pool.called

    def asked() -> bool:
        watch.schedule(pool, 0.0)
        return pool.called > before

    wait_until(asked, PATIENCE, "upkeep is called")


def test_an_exception_at_any_point_of_starting_it_leaves_a_keeper_that_can_start() -> None:
    """Interrupted after it was noted and before it ran, it counted as running for ever."""

    def scenario(run: Callable[[Callable[[], object]], None]) -> Callable[[str], None]:
        watch, pool = inside.Scheduler(), Pool()
        watch.register(pool)
        run(lambda: watch.schedule(pool, 0.0))

        def check(where: str) -> None:
            serves(watch, pool)
            watch.forget(pool)
            wait_until(lambda: not inside.peek(watch, "thread"), PATIENCE)

        return check

    prefix = str(Path(dbpool.__file__).parent / "_runtime/scheduler.py")
    assert explore(prefix, scenario) > 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_keeper_that_died_is_replaced_by_the_next_one_who_needs_it() -> None:
    class Fatal(BaseException):
        pass

    watch, pool = inside.Scheduler(), Pool()
    watch.register(pool)
    serves(watch, pool)
    dying = inside.peek(watch, "thread")
    assert dying

    def die(now: float) -> float:
        raise Fatal

    with inside.upkeep_instead(pool, die):
        watch.schedule(pool, 0.0)
        dying.join(PATIENCE)
        assert not dying.is_alive()
    serves(watch, pool)
    watch.forget(pool)
    wait_until(lambda: not inside.peek(watch, "thread"), PATIENCE)


def test_callers_are_served_though_the_keeper_was_never_started(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    wait_until(lambda: not keepers(), PATIENCE, "the keeper of earlier tests ends")
    inside.patch(monkeypatch, "scheduler_thread", threading.Thread(target=lambda: None))
    pool = stub_pool(max_size=2)
    in_thread(use, pool).result(PATIENCE)
    expect_full_capacity(pool)


def test_a_callers_thread_is_never_kept_by_upkeep_of_other_pools(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """Connects run in threads of their own: one that hangs holds up nobody else's."""
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    hanging = stub_pool(min_size=2)
    caller = in_thread(use, hanging)
    other = StubDriver()
    pool = ConnectionPool(driver=other, min_size=1)
    pool.wait(PATIENCE)
    use(pool)
    pool.close()
    assert not caller.done()
    go.set()
    caller.result(PATIENCE)


# Deadlines


class Server:
    """Stands for a driver whose connection is one end of a socket pair."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    cut_off = Driver.cut_off  # type: ignore[assignment]

    def fileno(self, conn: Any) -> int:
        return self._fd


def test_a_guard_cuts_what_overruns_and_leaves_alone_what_does_not() -> None:
    for seconds, cut in ((0.05, True), (100.0, False)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(PATIENCE if cut else 0.2)
            guard = inside.TimeLimit(Server(ours.fileno()), None, seconds)  # type: ignore[arg-type]
            told = pytest.raises(TimeoutError, match="not done within")
            with told if cut else nullcontext(), guard:
                try:
                    assert ours.recv(1) == b""
                    ended = "cut"
                except TimeoutError:
                    ended = "own time"
            assert (ended == "cut") is cut
            assert guard.fired is cut


def test_a_guard_that_is_over_touches_no_socket_any_more() -> None:
    ended = 0
    while ended < 200:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                while ended < 200:
                    guard = inside.TimeLimit(Server(ours.fileno()), None, 0.001)  # type: ignore[arg-type]
                    with guard:  # which lives on: only disarming it keeps it from firing
                        pass
                    ended += 1
            except TimeoutError:  # not over in time, on a busy machine
                continue
            time.sleep(0.02)
            ours.setblocking(False)
            with pytest.raises(BlockingIOError):
                ours.recv(1)


def test_a_guard_whose_frame_is_gone_is_forgotten() -> None:
    guard = inside.TimeLimit(Server(os.open(os.devnull, os.O_RDONLY)), None, 1000.0)  # type: ignore[arg-type]
    guard.__enter__()
    key = id(guard)
    os.close(inside.peek(guard, "driver").fileno(None) or 0)
    assert key in inside.peek(inside.scheduler, "guards")
    del guard
    inside.scheduler.inbox.put(None)
    wait_until(lambda: key not in inside.peek(inside.scheduler, "guards"), PATIENCE)


def test_many_deadlines_at_once_are_kept_whatever_their_order(pg_pool: MakePool) -> None:
    def reset(conn: Any) -> None:
        one(conn, "SELECT pg_sleep(300)")

    pools = [pg_pool(max_size=1, reset=reset, ping_timeout=0.3 - 0.05 * n) for n in range(5)]
    for returning in [in_thread(pool.putconn, pool.getconn()) for pool in pools]:
        returning.result(PATIENCE)
    for pool in pools:
        settled(pool)
        assert pool.get_stats()["pool_size"] == 0


def test_starvation_is_noticed_and_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "dbpool.keeper")
    inside.patch(monkeypatch, "SCHEDULER_LATE", -1.0)  # everything counts as late

    class Soon(Pool):
        def run(self, now: float) -> float:
            super().run(now)
            return now + 0.01

    watch, pool = inside.Scheduler(), Soon()
    watch.register(pool)
    watch.schedule(pool, 0.0)
    wait_until(lambda: pool.called >= 3, PATIENCE)
    watch.forget(pool)
    wait_until(lambda: not inside.peek(watch, "thread"), PATIENCE)
    assert "threads of this process are starved" in caplog.text
    assert watch.lag > -1
