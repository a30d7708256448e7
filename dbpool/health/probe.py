"""One look at the server: on which connection, by which query, and what an error is called.

An idle connection of the pool is taken if there is one; else a spare one outside max_size. Neither
waits for anybody, so a probe never queues behind traffic, and traffic never behind a probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._runtime import sockets
from .._runtime.clock import monotonic
from .._store.attempt import Attempt
from ..drivers.base import IDLE, REASONS

if TYPE_CHECKING:
    from .._store.attempt import Answer
    from .._store.entry import Held
    from ..pool import ConnectionPool
    from .prober import Flight, Prober

__all__ = ["Finding", "Spare", "probe"]

ALIVE_FOR = 1.0  # seconds for which the pool's last round trip says that it lives


class Finding(NamedTuple):
    """What a probe found: `reason` is empty if the server answered. No exception is kept."""

    at: float
    reason: str = ""
    cause: str = ""  # the error's class, for the log
    seconds: float = 0.0
    writable: bool = True
    broken: bool = False  # whether the connection is of no further use


class Spare:
    """The connection for health queries alone, one per pool."""

    __slots__ = ("conn", "poll", "used_at")

    def __init__(self, pool: ConnectionPool, conn: Any) -> None:
        fd = pool.driver.fileno(conn)
        self.conn = conn
        self.poll = None if fd is None else sockets.poller(fd)
        self.used_at = monotonic()


def probe(pool: ConnectionPool, prober: Prober, flight: Flight) -> Finding:
    """Ask the server once; raises nothing that it should know how to name."""
    until = flight.started + flight.deadline
    while monotonic() < until:
        held = pool._inspector.take_idle()
        if held is None:
            break
        flight.stage = "query_timeout"
        finding = _ask_idle(pool, held, flight.deadline)
        # One that is broken says something about itself; only another can tell about the server.
        if not finding.broken:
            return finding
    spare = prober._spare
    if spare is not None:
        if monotonic() < until and sockets.look(spare.poll) != sockets.DEAD:
            flight.stage = "query_timeout"
            finding = _ask_spare(pool, prober, spare, flight.deadline)
            if not finding.broken:
                return finding
        else:
            _drop(pool, prober, spare)
    return _ask_new_spare(pool, prober, flight)


def _ask_idle(pool: ConnectionPool, held: Held, seconds: float) -> Finding:
    conn, entry = held
    finding = _ask(pool, conn, seconds)
    if finding.broken:
        pool._inspector.found_dead(held)
    else:
        if not finding.reason:
            entry.proved_at = finding.at
        pool._queue.offer(held)
    return finding


def _ask_spare(pool: ConnectionPool, prober: Prober, spare: Spare, seconds: float) -> Finding:
    broken = True
    try:
        finding = _ask(pool, spare.conn, seconds)
        spare.used_at = finding.at
        broken = finding.broken
    finally:
        if broken:
            _drop(pool, prober, spare)
    return finding


def _drop(pool: ConnectionPool, prober: Prober, spare: Spare) -> None:
    prober._spare = None
    pool.driver.close(spare.conn)


def _ask_new_spare(pool: ConnectionPool, prober: Prober, flight: Flight) -> Finding:
    flight.stage = "connect_timeout"
    attempt = Attempt(monotonic(), pool.settings.connect_timeout)
    try:
        conn = pool._connector.connect(prober.name, attempt, spare=True)
    except Exception as error:
        answer = pool._connector.replies.of(attempt, error)
        now = monotonic()
        return Finding(now, _refused(pool, answer, now), type(error).__name__)
    flight.stage = "query_timeout"
    prober._spare = spare = Spare(pool, conn)
    return _ask_spare(pool, prober, spare, flight.deadline)


def _refused(pool: ConnectionPool, answer: Answer, now: float) -> str:
    """Return the word for a spare connection that could not be made."""
    store = pool._store
    reason = answer.reason
    doubted = store.doubted_at > store.proved_at
    # The server is full, or lets no new one in, while those of the pool are at work.
    if (now - store.proved_at < ALIVE_FOR and not doubted) or (
        not answer.silent and pool._connector.replies.any_alive()
    ):
        return "probe_unavailable"
    # A missing database has no word of its own: the page must not tell which ones there are.
    return reason if reason in REASONS and reason != "unknown_database" else "connect_failed"


def _ask(pool: ConnectionPool, conn: Any, seconds: float) -> Finding:
    driver = pool.driver
    started = monotonic()
    guard = pool._runner.limit(driver, conn, seconds)
    try:
        with guard:
            writable = driver.probe(conn)
    except Exception as error:
        now = monotonic()
        broken = guard.fired or driver.is_disconnect(conn, error)
        reason = _query_reason(driver.reason(error), guard.fired)
        broken = broken or driver.transaction_status(conn) != IDLE
        return Finding(now, reason, type(error).__name__, now - started, broken=broken)
    now = monotonic()
    if guard.fired or driver.transaction_status(conn) != IDLE:
        return Finding(now, "query_timeout", "", now - started, broken=True)
    pool.note_success()
    return Finding(now, seconds=now - started, writable=writable)


def _query_reason(reason: str, fired: bool) -> str:
    if fired or reason == "connect_timeout":  # libpq's word for tcp_user_timeout, too
        return "query_timeout"
    return reason if reason == "server_shutdown" else "query_failed"
