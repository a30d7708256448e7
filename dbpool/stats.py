"""Counters and histograms, and the snapshot that every exporter reads.

What a lent connection does, and how long its borrowers waited for it, is counted in its entry by
its exclusive owner, without a lock. What happens on slow paths is counted here, under the pool's
lock. An entry that ends is folded in here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any

from . import _handover
from ._clock import monotonic

if TYPE_CHECKING:
    from ._entry import Entry
    from .pool import ConnectionPool

__all__ = ["BOUNDS", "Totals", "bucket", "histogram", "since", "snapshot"]

# OpenTelemetry's advice for db.client.operation.duration, in seconds.
BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

GAUGES = frozenset(
    (
        "pool_min",
        "pool_max",
        "pool_size",
        "pool_available",
        "requests_waiting",
        "oldest_wait",
        "oldest_use",
    )
)


def bucket(seconds: float) -> int:
    """Return the index of the histogram bucket; a value equal to a bound is below it."""
    return bisect_left(BOUNDS, seconds)


def histogram(counts: list[int], total: float) -> dict[str, Any]:
    """Return a histogram as exporters want it: seconds, one count more than there are bounds."""
    return {"bounds": BOUNDS, "counts": counts, "sum": total}


class Totals:
    """What a pool has counted since it was made. Written under the pool's lock only."""

    def __init__(self) -> None:
        self.uses = 0
        self.used = 0.0
        self.slow = [0] * (len(BOUNDS) + 1)
        self.failed = 0
        self.timeouts = 0
        self.shed = 0
        self.down = 0
        self.queued = 0  # in vain, or to be served by what has ended
        self.waited = 0.0
        self.waits = [0] * (len(BOUNDS) + 1)
        self.rescues = 0
        self.returns_bad = 0
        self.connects = 0
        self.connect_errors = 0
        self.connected = 0.0
        self.creates = [0] * (len(BOUNDS) + 1)
        self.found_dead = 0
        self.leaks = 0
        self.closed: Counter[str] = Counter()

    def count_connect(self, seconds: float) -> None:
        """Count one connect that succeeded."""
        self.connected += seconds
        self.creates[bucket(seconds)] += 1

    def fold(self, entry: Entry) -> None:
        """Take over what an entry has counted; call it once, when the entry ends."""
        self.uses += int(entry.uses)
        self.used += entry.used
        self.slow = _plus(self.slow, entry.slow)
        self.queued += int(entry.queued)
        self.waited += entry.waited
        self.waits = _plus(self.waits, entry.waits)


def _plus(counts: list[int], more: list[int] | None) -> list[int]:
    """Return the sum, bucket by bucket; None is nothing."""
    return [a + b for a, b in zip(counts, more, strict=True)] if more else counts


def snapshot(pool: ConnectionPool) -> dict[str, Any]:
    """Return what the pool has counted, and its gauges; exact at any quiet point.

    The names are psycopg_pool's where it has them. Times whose name ends in _ms are whole
    milliseconds, rounded once, from the exact sum; all others are seconds.
    """
    now = monotonic()
    with pool._lock:
        total, entries = pool._totals, list(pool._entries)
        uses, used = total.uses, total.used
        queued, waited = total.queued, total.waited
        slow, waits = total.slow, total.waits
        for entry in entries:
            uses += int(entry.uses)
            used += entry.used
            queued += int(entry.queued)
            waited += entry.waited
            slow, waits = _plus(slow, entry.slow), _plus(waits, entry.waits)
        lent = [entry.since for entry in list(pool._in_use.values())]
        waiting = len(pool._waiters) - (pool._state == "closed")
        return {
            "pool_min": pool.min_size,
            "pool_max": pool.max_size,
            "pool_size": len(entries) + len(pool._attempts()),
            "pool_available": len(pool._idle),
            "requests_waiting": waiting,
            "requests_num": uses + total.failed,
            "requests_queued": queued,
            "requests_wait_ms": round(waited * 1000),
            "requests_errors": total.failed,
            "usage_ms": round(used * 1000),
            "returns_bad": total.returns_bad,
            "connections_num": total.connects,
            "connections_ms": round(total.connected * 1000),
            "connections_errors": total.connect_errors,
            "connections_lost": total.found_dead,
            "connections_dropped": total.leaks,
            "connections_closed": dict(total.closed),
            "timeouts": total.timeouts,
            "timeouts_down": total.down,
            "requests_shed": total.shed,
            "rescues": total.rescues,
            "oldest_wait": _handover.oldest_wait(pool, now),
            "oldest_use": max((now - since for since in lent), default=0.0),
            "wait_time": histogram([max(0, uses - sum(waits[1:])), *waits[1:]], waited),
            "use_time": histogram([max(0, uses - len(lent) - sum(slow[1:])), *slow[1:]], used),
            "create_time": histogram(list(total.creates), total.connected),
        }


def since(base: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return `now` with the counters of `base` subtracted; gauges stay."""

    def minus(key: str, value: Any) -> Any:
        old = base.get(key)
        if key in GAUGES or old is None:
            return value
        if isinstance(value, dict):
            return {name: minus_any(old.get(name), part) for name, part in value.items()}
        return value - old

    def minus_any(old: Any, value: Any) -> Any:
        if isinstance(value, list):
            return [a - b for a, b in zip(value, old, strict=True)]
        if isinstance(value, tuple) or old is None:
            return value
        return value - old

    return {key: minus(key, value) for key, value in now.items()}
