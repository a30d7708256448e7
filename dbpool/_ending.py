"""The end of a connection: retired by the pool, dropped by a borrower, or left by a dead owner."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from . import _growth
from ._clock import monotonic

if TYPE_CHECKING:
    from ._entry import Entry
    from .pool import ConnectionPool

__all__ = ["close", "expire", "find_lost", "reclaim", "retire"]

logger = logging.getLogger("dbpool.pool")


def retire(pool: ConnectionPool, held: tuple[Any, Entry], reason: str) -> None:
    """Close a connection that is ours alone, free its slot whatever happens, and fill that."""
    close(pool, held, reason)
    if pool._waiters or pool.min_size:
        _growth.grow(pool)


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
        _end_loan(entry)
    try:
        pool._entries.remove(entry)
    except KeyError:
        return False
    pool._totals.fold(entry)
    pool._totals.closed[reason] += 1
    if not pool._entries:
        pool._backoff.hurry()
    return True


def find_lost(pool: ConnectionPool) -> None:
    """Free the slots of connections that were dropped without being returned."""
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
    if lost:
        _growth.grow(pool)


def reclaim(pool: ConnectionPool) -> None:
    """Take back what is lent to owners that are dead; called when the pool is exhausted."""
    for entry in list(pool._in_use.values()):
        owner = entry.owner
        if owner is None or owner[0] != entry.uses or owner[1].is_alive():
            continue
        if pool._in_use.pop(entry.key, None) is entry:
            with pool._lock:
                pool._totals.leaks += 1
            _end_loan(entry)
            retire(pool, (entry(), entry), "abandoned")


def _end_loan(entry: Entry) -> None:
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
