"""How a pool is, judged by what is known of it, and the closed list of words for that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from .._connect.outage import DOWN, RECOVERING

if TYPE_CHECKING:
    from ..pool import ConnectionPool
    from .probe import Finding

__all__ = ["FAIL", "PASS", "REASONS", "WARN", "Limits", "Verdict", "is_primary", "judge", "read"]

PASS, WARN, FAIL = "pass", "warn", "fail"

# The only words that an answer may contain besides the three.
REASONS = {
    PASS: (),
    WARN: ("saturated", "slow", "read_only", "probe_unavailable", "recovering", "connect_stuck"),
    FAIL: (
        *("connect_failed", "connect_refused", "connect_timeout", "dns", "tls", "auth"),
        *("too_many_connections", "query_timeout", "query_failed", "server_shutdown", "internal"),
        *("connect_stuck", "starting", "draining", "closed"),
    ),
}

SATURATED_WAIT = 1.0  # seconds the oldest caller waits on a full pool before it is saturated
SATURATED_FOR = 10.0  # seconds for which a timeout is remembered
FAILING_WAIT = 1.0  # seconds of failed connects that are worth a warning
FAILING_FOR = 10.0  # seconds for which a failed connect is remembered: twice the longest pause
SLOW_FOR = 10.0  # seconds for which a probe's time is; without traffic each request probes


class Limits(NamedTuple):
    """What a health check allows, in seconds; see `dbpool.health.HealthCheck`."""

    deadline: float
    ttl: float
    slow: float


class Verdict(NamedTuple):
    """PASS, WARN or FAIL, and why, in words of REASONS."""

    status: str
    reasons: tuple[str, ...] = ()


def judge(
    pool: ConnectionPool, last: Finding | None, good: Finding | None, now: float, limits: Limits
) -> Verdict | None:
    """Return the verdict as far as it is known; None if only a probe can tell.

    Arguments: `last`, what the last probe found; `good`, what the last one found that reached the
    server. Looks only, and takes no lock.
    """
    store = pool._store
    if store.phase != "open":
        return Verdict(FAIL, ("closed" if store.phase == "closed" else "starting",))
    outage = pool._outage
    if outage.paused:  # an operator's doing: callers queue, and elsewhere they would as well
        return Verdict(WARN, ("recovering",))
    # A round trip that failed does not make it ill, but what was seen before proves nothing.
    proved = store.proved_at if store.proved_at > store.doubted_at else -math.inf
    if last is not None and last.reason and last.at > proved and now - last.at < limits.ttl:
        return read(pool, last, now, limits)
    if now - proved < limits.ttl:
        return _well(pool, good, now, limits)
    # The pool has a prober of its own at work: another connect would tell no more.
    if outage.name == DOWN and pool._runner.threads and not pool._outage.given_up:
        # A driver of the user's own may have words of its own.
        return Verdict(FAIL, (outage.cause if outage.cause in REASONS[FAIL] else "connect_failed",))
    return None


def read(pool: ConnectionPool, finding: Finding, now: float, limits: Limits) -> Verdict:
    """Return the verdict that a probe's finding amounts to."""
    if not finding.reason:
        return _well(pool, finding, now, limits)
    return Verdict(WARN if finding.reason in REASONS[WARN] else FAIL, (finding.reason,))


def _well(pool: ConnectionPool, good: Finding | None, now: float, limits: Limits) -> Verdict:
    """Return the verdict on a pool whose server answers."""
    reasons = []
    if pool._outage.name == RECOVERING:
        reasons.append("recovering")
    elif pool._outage.name == DOWN or _connects_fail(pool, now):  # but what is open works
        reasons.append("probe_unavailable")
    if pool._outage.stuck:  # what is open works, and there may be no more of it
        reasons.append("connect_stuck")
    if _is_saturated(pool, now):
        reasons.append("saturated")
    if good is not None and good.seconds > limits.slow and now - good.at < SLOW_FOR:
        reasons.append("slow")
    if good is not None and not good.writable and is_primary(pool):
        reasons.append("read_only")
    return Verdict(WARN if reasons else PASS, tuple(reasons))


def _connects_fail(pool: ConnectionPool, now: float) -> bool:
    """Return whether no new connection has been had for a while, though it was tried."""
    failure, since = pool._outage.failure, pool._outage.failing_since
    return (
        failure is not None
        and since is not None
        and now - failure.at < FAILING_FOR
        and now - since >= FAILING_WAIT
    )


def _is_saturated(pool: ConnectionPool, now: float) -> bool:
    store = pool._store
    if now - store.timed_out_at < SATURATED_FOR:
        return True
    full = len(store.in_use) >= store.max_size
    return full and pool._queue.oldest_wait(now) >= SATURATED_WAIT


def is_primary(pool: ConnectionPool) -> bool:
    """Return whether the pool is declared to be for writing."""
    return pool.role == "primary"
