"""The snapshot that every exporter reads, and the difference of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._runtime.clock import monotonic
from ._store.counters import BOUNDS, bucket, histogram, plus

if TYPE_CHECKING:
    from .pool import ConnectionPool

__all__ = ["BOUNDS", "GAUGES", "bucket", "since", "snapshot"]


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


def snapshot(pool: ConnectionPool) -> dict[str, Any]:
    """Return what the pool has counted, and its gauges; exact at any quiet point.

    The names are psycopg_pool's where it has them. Times whose name ends in _ms are whole
    milliseconds, rounded once, from the exact sum; all others are seconds.
    """
    queue = pool._queue
    store = pool._store
    now = monotonic()
    with store.lock:
        total, entries = store.counters, list(store.entries)
        uses, used = total.uses, total.used
        queued, waited = total.queued, total.waited
        slow, waits = total.slow, total.waits
        for entry in entries:
            uses += int(entry.uses)
            used += entry.used
            queued += int(entry.queued)
            waited += entry.waited
            slow, waits = plus(slow, entry.slow), plus(waits, entry.waits)
        lent = [entry.since for entry in list(store.in_use.values())]
        waiting = len(queue.waiters) - (store.phase == "closed")
        return {
            "pool_min": store.min_size,
            "pool_max": store.max_size,
            "pool_size": len(entries) + len(store.under_way()),
            "pool_available": len(queue.idle),
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
            "oldest_wait": queue.oldest_wait(now),
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
