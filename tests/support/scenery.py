"""A pool whose locks, deques, dictionaries and clock are the models of `schedule`.

Between any two of their operations another thread may come. Scenes are played in it by the tests
of interleavings.
"""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

import pytest

from dbpool import ConnectionPool, PoolClosed, PoolTimeout
from tests.support import inside, schedule
from tests.support.stub_driver import StubDriver

__all__ = [
    "TIMED",
    "UNTIMED",
    "Cancelled",
    "Explore",
    "Keeper",
    "Scene",
    "Scenery",
    "explore",
    "models",
    "step_suspicions",
]

UNTIMED, TIMED = schedule.FOREVER * 2, 1.0

Scene = tuple[Sequence[Callable[[], object]], Callable[[], object]]


class Cancelled(BaseException):
    """What ends a caller that waits: a killed greenlet, a timeout of its framework."""


class Keeper:
    """In the keeper's place: rings for a connector, if a scene has one, and does nothing else."""

    def __init__(self) -> None:
        self.inbox = SimpleNamespace(put=lambda entry: None)
        self.bell: Any = None

    def schedule(self, task: Any, when: float) -> bool:
        inside.put(task, due=min(inside.due(task), when))
        self.ring()
        return True

    def ring(self) -> None:
        if self.bell is not None:
            try:
                self.bell.release()
            except RuntimeError:  # it has been rung already
                pass

    def register(self, task: Any) -> None:
        pass

    def forget(self, task: Any) -> None:
        pass


class SteppedEntry(inside.Entry):
    """What a return and a drain write across each other is a switch point.

    It hashes to its number in the scene, so that a set of them has the same order each time.
    """

    __slots__ = ("number",)
    born_so_far = 0

    def __init__(self, *args: Any) -> None:
        SteppedEntry.born_so_far += 1
        self.number = SteppedEntry.born_so_far
        super().__init__(*args)

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


def _stepped(name: str) -> property:
    slot: Any = inside.Entry.__dict__[name]

    def read(entry: SteppedEntry) -> Any:
        schedule.point(f"read {name}")
        return slot.__get__(entry)

    def write(entry: SteppedEntry, value: float) -> None:
        schedule.point(f"write {name}")
        slot.__set__(entry, value)

    return property(read, write)


for _name in ("good_until", "renew_at", "expires_at"):
    setattr(SteppedEntry, _name, _stepped(_name))


def step_suspicions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what a suspicion writes be a switch point, too; other scenes only grow by it."""
    monkeypatch.setattr(SteppedEntry, "proved_at", _stepped("proved_at"))


class Explore(Protocol):
    """As schedule.explore()."""

    def __call__(self, scenario: schedule.Scenario, *, bound: int) -> int: ...


@pytest.fixture(
    params=[
        pytest.param(1, id="one preemption fewer"),
        pytest.param(0, id="to the bound", marks=pytest.mark.exhaustive),
    ]
)
def explore(request: pytest.FixtureRequest) -> Explore:
    """Explore with the preemptions that a test names in `make test-all`, with one fewer else."""

    def explore(scenario: schedule.Scenario, *, bound: int) -> int:
        return schedule.explore(scenario, bound=bound - request.param)

    return explore


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> Keeper:
    """Put the models where the pool looks its primitives up."""
    clock = schedule.Clock()
    keeper = Keeper()
    threading = SimpleNamespace(Lock=schedule.Lock, RLock=schedule.RLock)
    monkeypatch.setattr(schedule.Lock, "clock", clock)
    inside.patch(monkeypatch, "waiting.threading", threading)
    inside.patch(monkeypatch, "inventory.threading", threading)
    inside.patch(monkeypatch, "handoff.deque", schedule.deque)
    inside.patch(monkeypatch, "Entry", SteppedEntry)
    inside.patch(monkeypatch, "NoFork", nullcontext)  # it goes by threads of all runs
    instead = {
        id(time): SimpleNamespace(sleep=lambda seconds: None),
        id(inside.monotonic): clock.monotonic,
        # No thread of the pool's own: the real keeper would walk in between the steps.
        id(inside.scheduler): keeper,
        id(inside.TimeLimit): lambda *args, **kwargs: nullcontext(),
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("dbpool.") and module is not inside.scheduler_module:
            for attribute, value in list(vars(module).items()):
                if id(value) in instead:
                    monkeypatch.setattr(module, attribute, instead[id(value)])
    clear, born = inside.original("Inventory.clear"), inside.original("Waiter.init")

    def clear_and_model(store: Any) -> None:
        clear(store)
        store.in_use = schedule.mapping()

    def be_born_and_modelled(waiter: Any, now: float) -> None:
        born(waiter, now)
        inside.put(waiter, answer=schedule.mapping())

    inside.patch(monkeypatch, "Inventory.clear", clear_and_model)
    inside.patch(monkeypatch, "Waiter.init", be_born_and_modelled)
    # And no belt: a lost wake-up must show as one.
    inside.patch(monkeypatch, "nap", lambda *args: schedule.FOREVER * 2)
    inside.patch(monkeypatch, "FIRST_NAP", schedule.FOREVER * 2)
    # A waiter that the scheduler keeps waiting starts a connector: one that ends at once.
    inside.patch(monkeypatch, "start_thread", lambda thread: None)
    inside.patch(monkeypatch, "collect_garbage", lambda *args: None)
    return keeper


class Scenery:
    """A pool with some connections open, and what is out of it."""

    cancelled: ClassVar[dict[str, str]] = {}  # by thread: how it is cancelled when it sleeps

    def __init__(self, size: int = 1, opened: int = 1, **options: Any) -> None:
        assert schedule.Lock.clock is not None
        schedule.Lock.clock.now = 1000.0
        SteppedEntry.born_so_far = 0
        self.driver = StubDriver()
        self.pool = ConnectionPool(driver=self.driver, max_size=size, **options)
        taken = []
        for _ in range(opened):
            attempt = inside.reserve(self.pool) or self.attempt()
            inside.make(self.pool, attempt)
            taken.append(self.pool.getconn())
        for conn in taken:  # at times of their own: what the pool sorts, it sorts the same way
            schedule.Lock.clock.now += 0.001
            self.pool.putconn(conn)
        inside.put(self.pool, due=math.inf)  # all is quiet
        schedule.Lock.clock.now += 1.0  # and has been for a while
        self.in_use: set[int] = set()
        self.held: list[Any] = []
        self.dropped = self.over = 0

    def attempt(self) -> inside.Attempt:
        """Reserve a slot as a connector does that somebody has asked for."""
        attempt = inside.Attempt(inside.now(), 5.0)
        inside.connecting(self.pool)[id(attempt)] = weakref.ref(attempt)
        return attempt

    def hold(self) -> None:
        """Have a connection out of the pool until the scene is over."""
        self.held.append(self.pool.getconn())

    def borrow(self, timeout: float) -> None:
        """Take a connection and return it; nobody else may have it meanwhile."""
        conn = self.pool.getconn(timeout)
        assert conn.number not in self.in_use, "lent to two callers"
        self.in_use.add(conn.number)
        schedule.point("use")
        self.in_use.discard(conn.number)
        self.pool.putconn(conn)

    def borrow_or_not(self, timeout: float) -> None:
        try:
            self.borrow(timeout)
        except (PoolTimeout, PoolClosed):
            pass

    def check(self) -> None:
        pool = self.pool
        while self.held:
            pool.putconn(self.held.pop())
        assert not inside.in_use(pool), "still lent"
        inside.find_lost(pool)
        self._end_what_came_late()
        inside.audit(pool)
        assert pool.get_stats()["connections_dropped"] == self.dropped, "a connection was lost"
        if not pool.closed:
            assert len(inside.idle(pool)) == len(inside.entries(pool)), (
                "an open connection is not to be had"
            )
        else:
            assert self.driver.open_connections == 0, "open after close"

    def _end_what_came_late(self) -> None:
        """See to those that came back just when all were told to go: the keeper does so soon."""
        now = inside.now()
        late = [entry for _, entry in inside.idle(self.pool) if not entry.expires_at]
        assert all(entry.good_until == 0 for entry in late), "it would be lent again"
        if late:
            assert inside.due(self.pool) <= now + 0.5, "nobody comes to close it"
            inside.upkeep(self.pool, now + 1.0)
