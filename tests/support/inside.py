"""The only door of tests, benchmarks and the testproject to what `dbpool` keeps to itself.

A test that needs the pool's private state asks a function of this file for it, takes a private
class or function from here, and replaces a private name with `patch`. So when the inside of the
package is laid out anew, this file changes and no test does. `tests/test_layers.py` sees to it.
"""

from __future__ import annotations

import importlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from dbpool import ConnectionPool
from dbpool._connect import connector as _connecting
from dbpool._connect import failure as _failing
from dbpool._connect import growth as _growth
from dbpool._connect import outage as _state
from dbpool._connect import server as _server
from dbpool._connect import stuck as _stuck
from dbpool._connect.growth import Growth as _Growth
from dbpool._connect.outage import DOWN as DOWN
from dbpool._connect.outage import Outage as Outage
from dbpool._connect.server import SPACING as SPACING
from dbpool._connect.server import WITHIN as WITHIN
from dbpool._connect.server import Server as Server
from dbpool._lend import waiting as _waiting
from dbpool._lend.waiting import Waiting as _Waiting
from dbpool._runtime import fork_gate as _fork_gate
from dbpool._runtime import forks as _fork
from dbpool._runtime import host_probe as _knock
from dbpool._runtime import process as _process
from dbpool._runtime import runner as _runner
from dbpool._runtime import scheduler as _keeper
from dbpool._runtime import sockets as _socket
from dbpool._runtime import threads as _threads
from dbpool._runtime import time_limit as _time_limit
from dbpool._runtime.clock import monotonic as monotonic
from dbpool._runtime.fork_gate import NoFork as NoFork
from dbpool._runtime.scheduler import keeper as scheduler
from dbpool._shown import is_word as is_word
from dbpool._shown import shown as shown
from dbpool._store import attempt as _attempt
from dbpool._store import handoff as _handover
from dbpool._store import inventory as _inventory
from dbpool._store import waiter as _waiter
from dbpool._store.admission import CoDel as CoDel
from dbpool._store.attempt import Attempt as Attempt
from dbpool._store.attempt import Failure as Failure
from dbpool._store.audit import audit as _audit
from dbpool._store.entry import NEVER as NEVER
from dbpool._store.entry import Entry as Entry
from dbpool._store.handoff import FREE_THREADED as FREE_THREADED
from dbpool._store.handoff import Handoff as _Handoff
from dbpool._store.inventory import Inventory as _Inventory
from dbpool._store.waiter import CLOSED as CLOSED
from dbpool._store.waiter import GONE as GONE
from dbpool._store.waiter import Waiter as Waiter
from dbpool._upkeep import max_use as _use_limit
from dbpool._upkeep import sweep as _sweep
from dbpool._upkeep import trust as _trust
from dbpool._upkeep import usable as _validation
from dbpool._upkeep.lifecycle import Lifecycle as _Lifecycle
from dbpool._upkeep.session import SessionWatch as SessionWatch
from dbpool.drivers import _hosts, _postgres
from dbpool.drivers._statements import SPOILT as SPOILT
from dbpool.drivers._statements import leaves as leaves
from dbpool.drivers._statements import remembered as remembered
from dbpool.health import probe as _probe
from dbpool.health import prober as _prober
from dbpool.health.document import described as described
from dbpool.health.probe import Spare as Spare
from dbpool.health.prober import prober_of as prober_of
from dbpool.health.status import Limits as Limits
from dbpool.health.status import Verdict as Verdict
from dbpool.health.status import judge as judge

if TYPE_CHECKING:
    import pytest

    from dbpool._store.admission import Admission
    from dbpool._store.counters import Counters
    from dbpool._store.entry import Held
    from dbpool._upkeep.max_use import UseLimit
    from dbpool.errors import PoolError
    from dbpool.health import HealthCheck
    from dbpool.health.prober import Prober

# Under the names that the field has for them.
TimeLimit = _time_limit.TimeLimit
Scheduler = _keeper.Keeper
ProbeResult = _probe.Finding
Probe = _prober.Flight
MAX_NAP = _waiting.BELT

# -- the state of a pool

admission: Callable[[ConnectionPool], Admission | None] = attrgetter("_queue.admission")
connecting: Callable[[ConnectionPool], dict[int, Any]] = attrgetter("_store.attempts")
conninfo: Callable[[ConnectionPool], Any] = attrgetter("_connector._conninfo")
counters: Callable[[ConnectionPool], Counters] = attrgetter("_store.counters")
doubted_at: Callable[[ConnectionPool], float] = attrgetter("_store.doubted_at")
entries: Callable[[ConnectionPool], set[Entry]] = attrgetter("_store.entries")
filling: Callable[[ConnectionPool], list[Waiter]] = attrgetter("_queue.filling")
idle: Callable[[ConnectionPool], deque[Held]] = attrgetter("_queue.idle")
in_use: Callable[[ConnectionPool], dict[int, Entry]] = attrgetter("_store.in_use")
outage: Callable[[ConnectionPool], Outage] = attrgetter("_outage")
prober: Callable[[ConnectionPool], Prober | None] = _prober.known_prober
proved_at: Callable[[ConnectionPool], float] = attrgetter("_store.proved_at")
store: Callable[[ConnectionPool], _Inventory] = attrgetter("_store")
use_limit: Callable[[ConnectionPool], UseLimit | None] = attrgetter("_use_limit")
waiters: Callable[[ConnectionPool], deque[Any]] = attrgetter("_queue.waiters")


def attempts(pool: ConnectionPool) -> list[Attempt]:
    return pool._store.under_way()


def audit(pool: ConnectionPool) -> None:
    _audit(pool._queue)


def clear(pool: ConnectionPool) -> None:
    pool._clear()


def connect_failed(
    pool: ConnectionPool, now: float, since: float, failure: Failure, *, alive: bool
) -> str:
    """Tell a pool of a failed connect that began at `since`; return what its log is told."""
    known = isinstance(failure.error, pool.driver.OperationalError)
    with lock(pool):
        told = outage(pool).failed(store(pool), now, since, failure, alive=alive, known=known)
    return told.line


def outage_alone() -> Outage:
    """Return the machine that tells an outage, of no pool."""
    return Outage("alone", 4, 1.0, 300.0, wake=list)


def due(part: Any) -> float:
    """Return when the upkeep of a pool, or of a part of one, is due."""
    return task(part).due  # type: ignore[no-any-return]


def task(part: Any) -> Any:
    """Return what the scheduler runs for a pool, or for a part of one."""
    return part._sweep if isinstance(part, ConnectionPool) else part


def find_lost(pool: ConnectionPool) -> None:
    pool._growth.find_lost()


def lock(part: Any) -> Any:
    """Return what guards a pool, or a part of one."""
    return part._store.lock if isinstance(part, ConnectionPool) else part._lock


def entry_of(pool: ConnectionPool, conn: Any) -> Entry:
    return in_use(pool)[id(conn)]


def error(pool: ConnectionPool, kind: type[PoolError]) -> type[PoolError]:
    return pool.error(kind)


def upkeep(part: Any, now: float) -> float:
    """Run what the scheduler runs when `part` is due: a pool, or what a pool has registered."""
    return task(part).run(now)  # type: ignore[no-any-return]


def peek(part: Any, name: str) -> Any:
    """Read what a part of the pool keeps to itself; `part` comes from a function of this file."""
    for owner, attribute in _places(part, name):
        return getattr(owner, attribute)
    raise AttributeError(f"{type(part).__name__} has no {name}")


def put(part: Any, **values: Any) -> None:
    """Write the private state of a pool, or of a part of one."""
    for name, value in values.items():
        places = _places(part, name)
        assert places, f"{type(part).__name__} has no {name}"
        for owner, attribute in places:
            object.__setattr__(owner, attribute, value)  # settings are frozen


def _places(part: Any, name: str) -> list[tuple[Any, str]]:
    """Return where something private is kept; of a pool also where it reads it more directly."""
    places = [(part, f"_{name}")]
    if isinstance(part, ConnectionPool):
        places += [(part._store, name), (part.settings, name), (part._sweep, name)]
        places += [(part._connector, f"_{name}")]
    elif name == "due":  # of any task of the scheduler
        places = [(part, name)]
    return [place for place in places if hasattr(*place)]


def verdicts(check: HealthCheck) -> dict[str, Verdict] | None:
    return check._verdicts("")


@contextmanager
def upkeep_instead(pool: ConnectionPool, run: Callable[[float], float]) -> Iterator[None]:
    found = task(pool)
    found.run = run
    try:
        yield
    finally:
        del found.run


# -- private functions and modules

next_try: Callable[[ConnectionPool, list[Attempt]], float] = lambda pool, hanging: (  # noqa: E731
    _stuck.next_try(pool._outage, hanging)
)


def connect(pool: ConnectionPool, name: str, attempt: Attempt, **how: Any) -> Any:
    return pool._connector.connect(name, attempt, **how)


def connect_all(pool: ConnectionPool) -> None:
    pool._growth.connect_all()


def grow(pool: ConnectionPool) -> None:
    pool._growth.grow()


def make(pool: ConnectionPool, attempt: Attempt) -> bool:
    return pool._connector.make(attempt)


def reserve(pool: ConnectionPool) -> Attempt | None:
    return pool._growth._reserve()


def start_connectors(pool: ConnectionPool) -> None:
    pool._growth.start_connectors()


def wanted(pool: ConnectionPool, now: float) -> bool:
    return pool._growth.wanted(now)


def may_join(pool: ConnectionPool, hanging: int, timely: int) -> bool:
    """Return whether one more connect may be under way beside so many that have just begun."""
    attempts = [Attempt(0.0, 0.0) for _ in range(hanging + timely)]
    return _stuck.may_join(pool._store, pool._outage, attempts, timely, pool.max_size, 0.0)


def replace_before(pool: ConnectionPool) -> float:
    return pool._growth.replace_before()


def reclaim(pool: ConnectionPool) -> None:
    pool._growth.reclaim()


def mark_all_untrusted(pool: ConnectionPool) -> None:
    _trust.mark_all_untrusted(pool._store)


def sweep(pool: ConnectionPool, now: float) -> None:
    pool._sweep.sweep(now)


next_upkeep = upkeep


def any_alive(pool: ConnectionPool) -> bool:
    return pool._connector.replies.any_alive()


ALIVE, DEAD, look, poller = _socket.ALIVE, _socket.DEAD, _socket.look, _socket.poller
sever_of = _socket.sever_of
CANCEL_GRACE, may_cancel = _use_limit.GRACE, _use_limit._has_place
accepts = _knock.answers
met, met_with = _knock.met, _knock._outcome
servers_lock: Callable[[], Any] = lambda: _server._servers_lock  # noqa: E731

address, endpoints = _postgres.address, _postgres.endpoints
connect_defaults, connect_seconds = _postgres.defaults, _postgres.connect_seconds
routed, in_order = _postgres.routed, _hosts.in_order

unforked, start_anew = _process.unforked, _process.start_anew
fork_gate, threads = _fork_gate, _threads
on_child = _fork.on_child


def forget_last_on_child() -> None:
    """Forget what was last given to `on_child`."""
    _fork._callbacks.pop()


def under_way_at_forks() -> list[Any]:
    """Return what the process knows of its forks, connects and threads that begin."""
    gate = _fork_gate
    return [gate._forks, gate._connects, gate._connected, _threads._being_started]


def connects_under_way() -> bool:
    """Return whether a thread is inside a connect, or leaves after one: what a fork waits for."""
    return _fork_gate._another_connects(0) or _fork_gate._leaving()


def put_cancelling(threads: list[Any]) -> None:
    """Have these threads be the ones that cancel statements."""
    _use_limit._cancelling[:] = threads


scheduler_module = _keeper


def now() -> float:
    """Return the time as the pool sees it, by a clock that a test may have put in its place."""
    return _waiting.monotonic()


def tracked_connection() -> type[Any]:
    """Return psycopg2's connection as the pool makes it; only where psycopg2 is installed."""
    from dbpool.drivers._tracking import TrackedConnection

    return TrackedConnection


# -- private names, replaced

# Where the name is read: a module, which reads its own globals or is read by others as
# `_module.name`; or a class. test_layers.py checks that each of them is. With a third word: only
# where that module calls it.
SPOTS: dict[str, tuple[Any, ...]] = {
    # seconds, and numbers
    "BEGIN_WITHIN": (_threads, "BEGIN_WITHIN"),
    "CANCEL_GRACE": (_use_limit, "GRACE"),
    "EXIT_PATIENCE": (_threads, "PATIENCE"),
    "FIRST_NAP": (_waiting, "SOON"),
    "FORK_LONGEST": (_fork_gate, "LONGEST"),
    "FORK_MANY": (_fork_gate, "MANY"),
    "FORK_PATIENCE": (_fork_gate, "PATIENCE"),
    "LATE_LOAN_PATIENCE": ("dbpool_flask._late", "PATIENCE"),
    "MAX_NAP": (_waiting, "BELT"),
    "MAX_PAUSE": (Outage, "highest"),
    "MIN_ASK": (_validation, "MIN_ASK"),
    "MIN_PAUSE": (Outage, "lowest"),
    "NEW": (_failing, "NEW"),
    "OVERRUN": (_attempt, "OVERRUN"),
    "REMINDER_EVERY": (_state, "TELL_EVERY"),
    "REPLACE_BEFORE": (_growth, "REPLACE_BEFORE"),
    "ROLE_EVERY": (_prober, "ROLE_EVERY"),
    "SCHEDULER_LATE": (_keeper, "_STARVED"),
    "SPARE_IDLE": (_prober, "SPARE_IDLE"),
    "STUCK_LONGER": (_stuck, "LONGER"),
    "SWEEP_EVERY": (_sweep, "LOOK_EVERY"),
    # state of the process
    "collected_at": (_waiting, "_collected_at"),
    "exiting": (_threads, "_ended"),
    "start_thread": (_threads, "start"),
    "scheduler_thread": (scheduler, "_thread"),
    # what is called
    "accepts": (_knock, "answers"),
    "answer_all": (_Handoff, "answer_all"),
    "close_pool": (_Lifecycle, "close"),
    "collect_garbage": (_waiting, "_collect"),
    "fill_nap": (_Waiting, "nap", "dbpool._lend.fill"),
    "fork_sleep": (_fork_gate, "sleep"),
    "grow": (_Growth, "grow"),
    "judge": (_prober, "judge"),
    "look": (_socket, "look"),
    "mark_for_closing": (Entry, "mark_for_closing"),
    "match": (_Handoff, "match", "dbpool.pool"),
    "match_for_a_waiter": (_Handoff, "match", "dbpool._lend.waiting"),
    "nap": (_Waiting, "nap"),
    "offer": (_Handoff, "offer"),
    "offer_again": (_Handoff, "offer", "dbpool._lend.waiting"),
    "probe_clock": (_probe, "monotonic"),
    "retire_returned": (_Growth, "retire", "dbpool._lend.give_back"),
    "sweep": (_sweep.Sweep, "sweep"),
    "usable": (_validation.Inspector, "is_usable"),
    # classes and their methods, and modules that are looked up at use
    "Entry": (_connecting, "Entry"),
    "Inventory.clear": (_Inventory, "clear"),
    "NoFork": (_connecting, "NoFork"),
    "Probe": (_prober, "Flight"),
    "Server.claim": (Server, "claim"),
    "Server.started": (Server, "started"),
    "Spare": (_probe, "Spare"),
    "TimeLimit": (_runner, "TimeLimit"),
    "Waiter.init": (Waiter, "__init__"),
    "Waiter.wait": (Waiter, "wait"),
    "Waiter.withdraw": (Waiter, "withdraw"),
    "handoff.deque": (_handover, "deque"),
    "inventory.threading": (_inventory, "threading"),
    "waiting.threading": (_waiter, "threading"),
}


def original(name: str) -> Any:
    """Return what a private name stands for now."""
    return getattr(*_spot(name))


def patch(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Replace a private name where it is read, until the end of the test."""
    owner, attribute = _spot(name)
    for module in SPOTS[name][2:]:
        value = _instead(getattr(owner, attribute), value, module)
    monkeypatch.setattr(owner, attribute, value)


def _instead(before: Any, value: Any, module: str) -> Any:
    """Return a function that is `value` where `module` calls it, else as it was."""

    def called(*args: Any) -> Any:
        ours = sys._getframe(1).f_globals["__name__"] == module
        return (value if ours else before)(*args)

    return called


def patch_of(monkeypatch: pytest.MonkeyPatch, part: ConnectionPool, name: str, value: Any) -> None:
    """Replace a method of one pool: "event", what tells the log, or "upkeep"."""
    owner, attribute = {"event": (part._store, "event"), "upkeep": (part._sweep, "run")}[name]
    monkeypatch.setattr(owner, attribute, value)


def _spot(name: str) -> tuple[Any, str]:
    owner, attribute = SPOTS[name][:2]
    return importlib.import_module(owner) if isinstance(owner, str) else owner, attribute


def fenced_cursors(connection: Any) -> int:
    """Return how many cursors a Flask connection keeps track of."""
    return len(connection._lease.loan.cursors)
