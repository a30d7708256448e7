"""One prober per pool: it answers how the database is, at the cost of one query a second at most.

Whoever asks gets what is known if that is fresh, a round trip of ordinary traffic included. Else
the first one starts a probe (in a thread of its own) and all wait for it until the deadline. While
a probe is stuck beyond that, the answer is `fail` at once, and nothing more is started.
"""

from __future__ import annotations

import logging
import math
import threading
import traceback
import weakref
from typing import TYPE_CHECKING

from .._runtime import forks, threads
from .._runtime.clock import monotonic
from .._runtime.process import start_anew, unforked
from .._runtime.scheduler import keeper
from . import probe
from .probe import Finding
from .status import FAIL, PASS, WARN, Limits, Verdict, is_primary, judge, read

if TYPE_CHECKING:
    from ..pool import ConnectionPool

__all__ = ["Flight", "Prober", "describe", "known_prober", "prober_of"]

logger = logging.getLogger("dbpool.health")

ROLE_EVERY = 10.0  # seconds between two role queries, however much traffic proves the server
SPARE_IDLE = 60.0  # seconds unused after which the spare connection is closed

_LEVELS = {PASS: logging.INFO, WARN: logging.WARNING, FAIL: logging.ERROR}


class Flight:
    """One probe under way; `finding` is there once `done` is set."""

    __slots__ = ("deadline", "done", "finding", "stage", "started")

    def __init__(self, started: float, deadline: float) -> None:
        self.started = started
        self.deadline = deadline
        self.stage = "connect_timeout"  # what to call it if it does not come back in time
        self.finding: Finding | None = None
        self.done = threading.Event()


class Prober:
    """The health of one pool, and its spare connection. Any thread may ask."""

    def __init__(self, pool: ConnectionPool) -> None:
        # Not the pool itself, which owns the prober and goes away with its last user.
        self.name = f"dbpool-health:{pool.name}"
        self._pool_name = pool.name
        self._driver = pool.driver
        self.reset()

    def reset(self) -> None:
        """Know nothing; also in a forked child, where the old lock may be held for ever."""
        # Guards _flight, _last, _good, _told, and _spare while there is no flight; while there is
        # one, the spare connection is its own. Re-entrant: a signal handler may close the pool.
        self._lock = threading.RLock()
        self._flight: Flight | None = None
        self._last: Finding | None = None  # of the last probe
        self._good: Finding | None = None  # of the last probe that reached the server
        self._told: tuple[str, float] | None = None  # the status that the log knows, since when
        self._spare: probe.Spare | None = None
        self.due = math.inf

    @property
    def good(self) -> Finding | None:
        """What the last probe found that reached the server."""
        return self._good

    # -- asking

    def begin(self, pool: ConnectionPool, limits: Limits) -> Verdict | Flight:
        """Return what is known, or the probe to wait for, which is started if there is none."""
        unforked or start_anew()
        now = monotonic()
        mine = Flight(now, limits.deadline)
        change = None
        with self._lock:
            known = judge(pool, self._last, self._good, now, limits)
            flight = self._flight
            if flight is None and (known is None or self._role_due(pool, now, known)):
                flight = self._flight = mine
            if known is not None:
                change = self._note(known, now)
        if flight is mine:
            self._start(pool, mine)
        if known is None:
            assert flight is not None
            return flight
        self._log(known, change, self._last)
        return known

    def wait(self, pool: ConnectionPool, flight: Flight, limits: Limits) -> Verdict:
        """Wait for a probe until it is `limits.deadline` old; return what is known then."""
        flight.done.wait(max(0.0, flight.started + limits.deadline - monotonic()))
        now = monotonic()
        with self._lock:
            finding = flight.finding
            known = judge(pool, self._last, self._good, now, limits)
            if known is None:
                if finding is not None:
                    known = read(pool, finding, now, limits)
                elif self._last is None and pool._store.proved_at == -math.inf:
                    known = Verdict(FAIL, ("starting",))
                else:
                    known = Verdict(FAIL, (flight.stage,))
            change = self._note(known, now)
        self._log(known, change, finding)
        return known

    def _role_due(self, pool: ConnectionPool, now: float, known: Verdict) -> bool:
        """Return whether the role should be asked for, though all is known to be well."""
        if known.status == FAIL or pool._outage.paused:
            return False
        if self._good and now - self._good.at < ROLE_EVERY:
            return False
        # A new connection is not worth it where nobody has said which role is right.
        return bool(pool._queue.idle) or self._spare is not None or is_primary(pool)

    def _note(self, verdict: Verdict, now: float) -> tuple[str, float] | None:
        """Return status and age of what this verdict changes; under the lock, so one caller's."""
        told = self._told
        if told is not None and told[0] == verdict.status:
            return None
        self._told = (verdict.status, now)
        return (told[0], now - told[1]) if told is not None else ("unknown", 0.0)

    def _log(
        self, verdict: Verdict, change: tuple[str, float] | None, finding: Finding | None
    ) -> None:
        if change is None or (change[0] == "unknown" and verdict.status == PASS):
            return
        why = ", ".join(verdict.reasons)
        cause = finding.cause if finding is not None and finding.reason == why else ""
        logger.log(
            _LEVELS[verdict.status],
            "pool %r: health is %s%s%s; it was %s for %.1f s",
            self._pool_name,
            verdict.status,
            why and f", {why}",
            cause and f" ({cause})",
            *change,
        )

    # -- probing

    def _start(self, pool: ConnectionPool, flight: Flight) -> None:
        """Probe in a thread; here, where there may be none or none is to be had."""
        started = False
        try:
            if pool._runner.threads:
                name = f"dbpool-prober-{pool.name}"
                thread = threads.Thread(self._fly, (pool, flight), name)
                try:
                    threads.start(thread)
                    started = True
                except RuntimeError:
                    pass
        except BaseException:
            self._land(pool, flight, None)
            raise
        if not started:
            self._fly(pool, flight)

    def _fly(self, pool: ConnectionPool, flight: Flight) -> None:
        finding = None
        try:
            finding = probe.probe(pool, self, flight)
        except Exception as error:
            finding = Finding(monotonic(), "internal", cause=describe(error))
        finally:
            self._land(pool, flight, finding)

    def _land(self, pool: ConnectionPool, flight: Flight, finding: Finding | None) -> None:
        """Publish what was found, and let the next probe start."""
        if finding is None:
            finding = Finding(monotonic(), "internal", cause="interrupted")
        unwanted = None
        with self._lock:
            if self._flight is flight:
                self._flight = None
                self._last = finding
                if not finding.reason:
                    self._good = finding
                # Without threads nobody would close it when it has been unused for a minute.
                if pool._store.phase == "closed" or pool._outage.paused or not pool._runner.threads:
                    unwanted, self._spare = self._spare, None
            flight.finding = finding
        flight.done.set()
        if unwanted is not None:
            self._driver.close(unwanted.conn)
        elif self._spare is not None and self.due == math.inf:
            keeper.register(self)
            keeper.schedule(self, monotonic() + SPARE_IDLE)

    # -- the spare connection's end

    def run(self, now: float) -> float:
        """Close the spare connection if it is unused; return when to look again. The keeper's."""
        with self._lock:
            spare = self._spare
            if spare is None:
                return math.inf
            due = spare.used_at + SPARE_IDLE
            if self._flight is not None or now < due:
                return max(due, now + 1.0)
            self._spare = None
        self._driver.close(spare.conn)
        keeper.forget(self)
        return math.inf

    def close(self) -> None:
        """Close the spare connection; the pool is closed."""
        with self._lock:
            if self._flight is not None:
                return  # it closes the connection when it is done with it
            spare, self._spare = self._spare, None
        if spare is not None:
            self._driver.close(spare.conn)
        keeper.forget(self)

    def _start_in_child(self) -> None:
        """Leave the spare connection to the parent process, and know nothing."""
        if self._spare is not None:
            forks.abandon(self._driver, self._spare.conn)
        keeper.forget(self)
        self.reset()


def describe(error: BaseException) -> str:
    """Return the error's class and place: what it says may name hosts, users and passwords."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


_probers: dict[int, weakref.ref[Prober]] = {}  # for a forked child; single operations only


def known_prober(pool: ConnectionPool) -> Prober | None:
    """Return the pool's prober, if it has ever been asked for."""
    attached = pool._lifecycle.attached
    return next((each for each in attached if isinstance(each, Prober)), None)


def prober_of(pool: ConnectionPool) -> Prober:
    """Return the pool's one prober."""
    prober = known_prober(pool)
    if prober is None:
        mine = Prober(pool)
        with pool._store.lock:
            prober = known_prober(pool) or mine
            if prober is mine:
                pool._lifecycle.attached.append(mine)
        key = id(prober)
        _probers[key] = weakref.ref(prober, lambda ref: _probers.pop(key, None))
    return prober


def _start_in_child() -> None:
    for ref in list(_probers.values()):
        prober = ref()
        if prober is not None:
            prober._start_in_child()


forks.on_child(_start_in_child)
