"""Closing a connection and freeing its slot; nothing here waits for anything but the close."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic

if TYPE_CHECKING:
    from ..pool import ConnectionPool
    from .entry import Entry

__all__ = ["close", "drop_lost", "end_loan", "expire"]

logger = logging.getLogger("dbpool.pool")


def close(pool: ConnectionPool, held: tuple[Any, Entry], reason: str) -> None:
    """Close a connection that is ours alone, and free its slot whatever happens."""
    conn, entry = held
    try:
        if conn is not None:
            pool._driver.close(conn)
    finally:
        # After the close, not before: the server never sees more than max_size.
        with pool._lock:
            known = _remove(pool, entry, reason)
    if known:
        pool._event("closed", reason)


def _remove(pool: ConnectionPool, entry: Entry, reason: str) -> bool:
    """Forget an entry and keep its counts; under the lock. False if it was gone already."""
    # In this order: interrupted at any point, what is left is found by find_lost. A signal handler
    # may do the same to the same entry between any two steps; the removal decides who counts it.
    if pool._in_use.get(entry.key) is entry:
        pool._in_use.pop(entry.key, None)
        end_loan(entry)
    try:
        pool._entries.remove(entry)
    except KeyError:
        return False
    pool._totals.fold(entry)
    pool._totals.closed[reason] += 1
    if not pool._entries:
        pool._backoff.hurry()
    return True


def drop_lost(pool: ConnectionPool) -> int:
    """Free the slots of connections that were dropped without being returned; return how many."""
    with pool._lock:
        dropped = [entry for entry in list(pool._entries) if entry() is None]
        lost = [entry for entry in dropped if _remove(pool, entry, "lost")]
        first = bool(lost) and not pool._totals.leaks
        pool._totals.leaks += len(lost)
    for _ in lost:
        pool._event("closed", "lost")
    if first:
        logger.warning(
            "pool %r: a connection was dropped without being returned; its slot is free again. "
            "Use `with pool.connection()`. Further ones are only counted (connections_dropped).",
            pool.name,
        )
    return len(lost)


def end_loan(entry: Entry) -> None:
    """Count a loan that no return has ended; it lasted until now, as far as is known."""
    used = monotonic() - entry.since
    entry.used += used
    entry.observe(used)


def expire(entry: Entry, why: str) -> None:
    """End an entry's life now: it is closed when next it is idle, or at once by a sweep."""
    if entry.expires_at:  # the first reason counts
        entry.why = why
    # In this order: a return writes the other two, if it does, and then reads expires_at.
    entry.expires_at = 0.0
    entry.good_until = 0.0
    entry.renew_at = 0.0
