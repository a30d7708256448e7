"""Threads that do everything a pool can, at once: none is forgotten, none is served twice.

The switch interval is a microsecond, so that a thread may lose the interpreter between any two
steps. On a Python without a GIL (`make test-freethreaded`) they are not between steps at all.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolTimeout, TooManyRequests
from dbpool.drivers.base import ACTIVE, INERROR, INTRANS
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, expect_full_capacity, settled
from tests.support.stub_driver import StubConnection, StubDriver

THREADS = 8


class Cancelled(BaseException):
    """What ends a caller that waits: a killed greenlet, a timeout of its framework."""


@pytest.fixture
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def cancelling(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """Callers whose `.cancelled` is set are cancelled when they have slept, served or not."""
    here = threading.local()
    wait = inside.Waiter.wait

    def wait_and_be_cancelled(waiter: Any, seconds: float) -> bool:
        if getattr(here, "cancelled", False):
            here.cancelled = False
            wait(waiter, min(seconds, 0.0005))
            raise Cancelled
        return wait(waiter, seconds)

    inside.patch(monkeypatch, "Waiter.wait", wait_and_be_cancelled)
    return here


class Hammer:
    """Callers, and what they saw."""

    def __init__(self, pool: ConnectionPool, here: threading.local) -> None:
        self.pool, self.here = pool, here
        self.owner: dict[int, int] = {}  # by a connection's number, who has it
        self.counts: list[Counter[str]] = []
        self.problems: list[str] = []
        self.start = threading.Barrier(THREADS + 1)

    def run(self, rounds: int, administration: list[Callable[[random.Random], object]]) -> None:
        """Let THREADS callers work, and one more do what administrators do."""
        counts = [Counter[str]() for _ in range(THREADS)]
        self.counts = counts
        working = threading.Event()

        def administer() -> None:
            rng = random.Random(0)
            self.start.wait(PATIENCE)
            while not working.is_set() and administration:
                rng.choice(administration)(rng)
                working.wait(0.0005)

        threads = [
            threading.Thread(
                target=self._guarded, args=(self._call, number, rounds, counts[number])
            )
            for number in range(THREADS)
        ]
        boss = threading.Thread(target=self._guarded, args=(administer,))
        for thread in [*threads, boss]:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE * 3 + rounds / 100)
        working.set()
        boss.join(PATIENCE)
        stuck = [thread.name for thread in [*threads, boss] if thread.is_alive()]
        assert not stuck, f"{stuck} are stuck; {self.pool!r}"
        assert self.problems == []

    def _guarded(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except BaseException as error:  # noqa: BLE001 - it fails the test
            self.problems.append(f"{threading.current_thread().name}: {error!r}")

    def _call(self, number: int, rounds: int, count: Counter[str]) -> None:
        rng = random.Random(number + 1)
        self.start.wait(PATIENCE)
        for _ in range(rounds):
            how = rng.random()
            timeout = 0.0 if how < 0.1 else 0.0005 if how < 0.2 else PATIENCE if how < 0.9 else None
            self.here.cancelled = how > 0.6 and how < 0.7
            try:
                if how > 0.95:
                    self._block(rng, count, timeout)
                else:
                    self._borrow(rng, count, timeout)
            except PoolTimeout:
                count["timeouts"] += 1
                if timeout is None or timeout > 1:
                    raise
            except TooManyRequests:
                count["refused"] += 1
            except Cancelled:
                count["cancelled"] += 1
            finally:
                self.here.cancelled = False

    def _borrow(self, rng: random.Random, count: Counter[str], timeout: float | None) -> None:
        pool = self.pool
        conn = pool.getconn(timeout)
        count["served"] += 1
        self._own(conn, rng)
        way = rng.random()
        if way < 0.04:
            count["dropped"] += 1
            del conn
        elif way < 0.1:
            count["closed"] += 1
            pool.putconn(conn, close=True)
        else:
            if way < 0.13:
                count["bad"] += 1
                conn.status = ACTIVE
            elif way < 0.2:
                conn.status = rng.choice((INTRANS, INERROR))
            elif way < 0.25:
                conn.setting = "changed"
            pool.putconn(conn)

    def _block(self, rng: random.Random, count: Counter[str], timeout: float | None) -> None:
        try:
            with self.pool.connection(timeout) as conn:
                count["served"] += 1
                self._own(conn, rng)
                if rng.random() < 0.5:
                    raise KeyError
        except KeyError:
            pass

    def _own(self, conn: StubConnection, rng: random.Random) -> None:
        """Have it for a moment; nobody else may have it then, and it has to be clean."""
        me = threading.get_ident()
        if self.owner.setdefault(conn.number, me) != me:
            self.problems.append(f"{conn.number} is lent to two")
        if conn.status or conn.setting != "default" or conn.closed:
            self.problems.append(f"{conn.number} was handed on as it was left")
        for _ in range(rng.randrange(40)):
            pass
        if self.owner.pop(conn.number, None) != me:
            self.problems.append(f"{conn.number} was lent to two")


def _expect_exact_counts(pool: ConnectionPool, counts: list[Counter[str]]) -> None:
    total = sum(counts, Counter[str]())
    stats = pool.get_stats()
    failed = total["timeouts"] + total["refused"] + total["cancelled"]
    assert stats["requests_num"] == total["served"] + failed
    assert stats["requests_errors"] == failed
    assert stats["timeouts"] == total["timeouts"]
    assert stats["connections_dropped"] == total["dropped"]
    assert stats["returns_bad"] == total["bad"]
    assert stats["connections_closed"].get("returned_closed", 0) == total["closed"]
    assert sum(stats["use_time"]["counts"]) == total["served"]
    assert stats["requests_waiting"] == 0
    ended = sum(stats["connections_closed"].values())
    assert stats["connections_num"] - stats["connections_errors"] - ended == stats["pool_size"]


@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize(
    "rounds", [400, pytest.param(20_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize("administered", [False, True], ids=["undisturbed", "administered"])
@pytest.mark.parametrize(
    "options",
    [{}, {"reuse": "fifo"}, {"background": False}, {"max_waiting": 3}, {"validate": "ping"}],
    ids=lambda options: "-".join(map(str, [*options, *options.values()])) or "defaults",
)
def test_nothing_is_lost_and_nothing_is_lent_twice(
    stub_pool: MakePool,
    stub: StubDriver,
    cancelling: threading.local,
    options: dict[str, Any],
    administered: bool,
    rounds: int,
) -> None:
    size = 3
    pool = stub_pool(max_size=size, timeout=PATIENCE, **options)
    hammer = Hammer(pool, cancelling)
    administration: list[Callable[[random.Random], object]] = [
        lambda rng: pool.drain(),
        lambda rng: pool.resize(rng.randrange(2), rng.randrange(1, 5)),
        lambda rng: pool.check(),
        lambda rng: pool.get_stats(),
    ]
    hammer.run(rounds, administration if administered else [])
    pool.resize(0, size)
    settled(pool)
    assert stub.open_connections <= size, "one is open that the pool does not know"
    if not administered:  # else some came back drained, and that wins over what they came back with
        _expect_exact_counts(pool, hammer.counts)
    expect_full_capacity(pool)
    pool.close()
    gc.collect()
    assert stub.open_connections == 0


@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize("rounds", [40, pytest.param(3_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("background", [True, False])
def test_closing_leaves_nobody_waiting_and_nothing_open(
    stub: StubDriver, background: bool, rounds: int
) -> None:
    """Close amidst callers, again and again: each is served, or told, and nothing stays open."""
    for number in range(rounds):
        pool = ConnectionPool(driver=stub, max_size=2, timeout=PATIENCE, background=background)
        _close_amidst(pool, random.Random(number))
        pool.close()
        inside.find_lost(pool)
        inside.audit(pool)
    gc.collect()
    assert stub.open_connections == 0


def _close_amidst(pool: ConnectionPool, rng: random.Random) -> None:
    problems: list[str] = []
    started = threading.Barrier(5)

    def call() -> None:
        started.wait(PATIENCE)
        try:
            while True:
                pool.putconn(pool.getconn())
        except BaseException as error:  # noqa: BLE001 - judged here
            if type(error).__name__ != "PoolClosed" and not pool.closed:
                problems.append(repr(error))
            elif isinstance(error, PoolTimeout):
                problems.append("a caller was not told that the pool has closed")

    callers = [threading.Thread(target=call) for _ in range(4)]
    for thread in callers:
        thread.start()
    started.wait(PATIENCE)
    for _ in range(rng.randrange(2000)):
        pass
    pool.close()
    for thread in callers:
        thread.join(PATIENCE)
    assert not [thread for thread in callers if thread.is_alive()], "a caller is stuck"
    assert problems == []
