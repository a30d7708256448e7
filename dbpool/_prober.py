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
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from . import _fork, _handover, _probe
from ._keeper import keeper
from ._probe import Finding

if TYPE_CHECKING:
    from .pool import ConnectionPool

__all__ = ["FAIL", "PASS", "REASONS", "WARN", "Flight", "Prober", "Verdict", "prober_of"]

logger = logging.getLogger("dbpool.health")

PASS, WARN, FAIL = "pass", "warn", "fail"

# The only words that an answer may contain besides the three.
REASONS = {
    # `recovering` is for the pool's own state of that name, which does not exist yet.
    WARN: ("saturated", "slow", "read_only", "probe_unavailable", "recovering"),
    FAIL: (
        *("connect_failed", "connect_refused", "connect_timeout", "dns", "tls", "auth"),
        *("too_many_connections", "query_timeout", "query_failed", "server_shutdown", "internal"),
        *("starting", "draining", "closed"),
    ),
}

ROLE_EVERY = 10.0  # seconds between two role queries, however much traffic proves the server
SPARE_IDLE = 60.0  # seconds unused after which the spare connection is closed
SATURATED_WAIT = 1.0  # seconds the oldest caller waits on a full pool before it is saturated
SATURATED_FOR = 10.0  # seconds for which a timeout is remembered


class Verdict(NamedTuple):
    """How a pool is: PASS, WARN or FAIL, and why, in words of REASONS."""

    status: str
    reasons: tuple[str, ...] = ()


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
        self.name = f"dbpool-health:{pool.name}"
        self._driver = pool.driver
        self.reset()

    def reset(self) -> None:
        """Know nothing; also in a forked child, where the old lock may be held for ever."""
        # Guards _flight, _last, _good, _told and who may touch _spare: the flight while there is
        # one, else whoever holds the lock.
        self._lock = threading.Lock()
        self._flight: Flight | None = None
        self._last: Finding | None = None  # of the last probe
        self._good: Finding | None = None  # of the last probe that reached the server
        self._told: tuple[str, float] | None = None  # the status that the log knows, since when
        self._spare: _probe.Spare | None = None
        self._due = math.inf

    # -- asking

    def begin(
        self, pool: ConnectionPool, deadline: float, ttl: float, slow: float
    ) -> Verdict | Flight:
        """Return what is known, or the probe to wait for, which is started if none is under way.

        Arguments in seconds, as `dbpool.health.HealthCheck` has them.
        """
        now = monotonic()
        known = self._judge(pool, now, ttl, slow)
        if known is not None and (self._flight is not None or not self._role_due(pool, now, known)):
            return self._tell(known)
        mine = Flight(now, deadline)
        with self._lock:
            flight = self._flight
            if flight is None:
                # Another probe may have come back since.
                known = self._judge(pool, now, ttl, slow)
                if known is None or self._role_due(pool, now, known):
                    flight = self._flight = mine
        if flight is mine:
            self._start(pool, mine)
        if known is not None:
            return self._tell(known)
        assert flight is not None
        return flight

    def wait(
        self, pool: ConnectionPool, flight: Flight, deadline: float, ttl: float, slow: float
    ) -> Verdict:
        """Wait for the probe until it is `deadline` seconds old; return what is known then."""
        flight.done.wait(max(0.0, flight.started + deadline - monotonic()))
        now = monotonic()
        finding = flight.finding
        known = self._judge(pool, now, ttl, slow)
        if known is None:
            if finding is not None:
                known = self._read(pool, finding, now, slow)
            elif pool._proved_at == -math.inf and self._last is None:
                known = Verdict(FAIL, ("starting",))
            else:
                known = Verdict(FAIL, (flight.stage,))
        return self._tell(known, finding)

    def _judge(self, pool: ConnectionPool, now: float, ttl: float, slow: float) -> Verdict | None:
        """Return the verdict as far as it is known; None if a probe is needed to tell."""
        if pool._state != "open":
            return Verdict(FAIL, ("closed" if pool._state == "closed" else "starting",))
        # A round trip that failed does not make it ill, but what was seen before proves nothing.
        proved = pool._proved_at if pool._proved_at > pool._doubted_at else -math.inf
        last = self._last
        if last is not None and last.reason and last.at > proved and now - last.at < ttl:
            return self._read(pool, last, now, slow)
        if now - proved < ttl:
            return self._well(pool, now, slow)
        return None

    def _read(self, pool: ConnectionPool, finding: Finding, now: float, slow: float) -> Verdict:
        if not finding.reason:
            return self._well(pool, now, slow)
        status = WARN if finding.reason in REASONS[WARN] else FAIL
        return Verdict(status, (finding.reason,))

    def _well(self, pool: ConnectionPool, now: float, slow: float) -> Verdict:
        """Return the verdict on a pool whose server answers."""
        reasons = []
        if _saturated(pool, now):
            reasons.append("saturated")
        good = self._good
        if good is not None and good.seconds > slow:
            reasons.append("slow")
        if good is not None and not good.writable and _is_primary(pool):
            reasons.append("read_only")
        return Verdict(WARN if reasons else PASS, tuple(reasons))

    def _role_due(self, pool: ConnectionPool, now: float, known: Verdict) -> bool:
        """Return whether the role should be asked for, though there is proof that all is well."""
        if known.status == FAIL or (self._good and now - self._good.at < ROLE_EVERY):
            return False
        # A new connection is not worth it where nobody has said which role is right.
        return bool(pool._idle) or self._spare is not None or _is_primary(pool)

    def _tell(self, verdict: Verdict, finding: Finding | None = None) -> Verdict:
        """Log a change of status, once."""
        now = monotonic()
        with self._lock:
            told = self._told
            if told is not None and told[0] == verdict.status:
                return verdict
            self._told = (verdict.status, now)
            finding = finding or self._last
        if verdict.status == PASS:
            if told is not None:
                logger.info("%s: %s again, after %.1f s", self.name, PASS, now - told[1])
        else:
            word = ", ".join(verdict.reasons)
            cause = finding.cause if finding is not None and finding.reason == word else ""
            logger.log(
                logging.ERROR if verdict.status == FAIL else logging.WARNING,
                "%s: %s, %s%s",
                self.name,
                verdict.status,
                word,
                f" ({cause})" if cause else "",
            )
        return verdict

    # -- probing

    def _start(self, pool: ConnectionPool, flight: Flight) -> None:
        try:
            if pool._background:
                thread = threading.Thread(
                    target=self._fly,
                    args=(pool, flight),
                    name=f"dbpool-prober-{pool.name}",
                    daemon=True,
                )
                try:
                    thread.start()
                    return
                except RuntimeError:  # no more threads to be had: probe here
                    pass
        except BaseException:
            self._land(pool, flight, None)
            raise
        self._fly(pool, flight)

    def _fly(self, pool: ConnectionPool, flight: Flight) -> None:
        finding = None
        try:
            finding = _probe.probe(pool, self, flight)
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
                # Without a thread nobody could close it when it has been unused for a minute.
                if self._spare and (pool._state == "closed" or not pool._background):
                    unwanted, self._spare = self._spare, None
        flight.finding = finding
        flight.done.set()
        if unwanted is not None:
            self._driver.close(unwanted.conn)
        elif self._spare is not None and self._due == math.inf:
            keeper.register(self)
            keeper.schedule(self, monotonic() + SPARE_IDLE)

    # -- the spare connection's end

    def _upkeep(self, now: float) -> float:
        """Close the spare connection if it is unused; return when to look again. For the keeper."""
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

    def _abandon(self) -> None:
        """Leave the spare connection to the parent process; called in a forked child."""
        spare = self._spare
        if spare is not None:
            _fork.abandon(self._driver, spare.conn)
        keeper.forget(self)
        self.reset()


def _saturated(pool: ConnectionPool, now: float) -> bool:
    full = len(pool._in_use) >= pool.max_size
    return (full and _handover.oldest_wait(pool, now) >= SATURATED_WAIT) or (
        now - pool._timed_out_at < SATURATED_FOR
    )


def _is_primary(pool: ConnectionPool) -> bool:
    """Return whether the pool is declared to be for writing. There is no such option yet."""
    return getattr(pool, "role", None) == "primary"


def describe(error: BaseException) -> str:
    """Return the error's class and place: what it says may name hosts, users and passwords."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


_probers: dict[int, weakref.ref[Prober]] = {}  # for _start_in_child; single operations only


def prober_of(pool: ConnectionPool) -> Prober:
    """Return the pool's one prober."""
    prober: Prober | None = pool._prober
    if prober is None:
        mine = Prober(pool)
        with pool._lock:
            prober = pool._prober = pool._prober or mine
        key = id(prober)
        _probers[key] = weakref.ref(prober, lambda ref: _probers.pop(key, None))
    return prober


def _start_in_child() -> None:
    for ref in list(_probers.values()):
        prober = ref()
        if prober is not None:
            prober._abandon()


_fork.on_child(_start_in_child)
