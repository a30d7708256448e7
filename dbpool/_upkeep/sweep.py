"""What is due for the idle connections of a pool, and when to come back."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from .._connect import growth, stuck
from .._connect.outage import DOWN
from .._connect.retire import retire
from .._runtime import sockets
from . import trust

if TYPE_CHECKING:
    from .._store.entry import Entry
    from ..pool import ConnectionPool

__all__ = ["sweep", "upkeep"]

logger = logging.getLogger("dbpool.pool")

LOOK_EVERY = 10.0  # seconds between two looks at the idle connections of a quiet pool


def upkeep(pool: ConnectionPool, now: float) -> float:
    """Do what is due for the pool; return when to come back. No network I/O, never blocks long."""
    sweep(pool, now)
    growth.finish_recovery(pool)
    if pool._store.attempts:
        stuck.tell(pool, now)
    if line := pool._outage.reminder(now):
        logger.warning("%s", line)
    if pool._background:
        growth.start_connectors(pool)
    else:
        growth.connect_all(pool)
    return _next_due(pool, now)


def sweep(pool: ConnectionPool, now: float) -> None:
    """Look at every idle connection; close the dead, the expired, and the long unused."""
    idle = pool._queue.idle
    dead = False
    for _ in range(len(idle)):
        try:
            held = idle.popleft()
        except IndexError:
            break
        reason = _verdict(pool, held[1], now)
        if reason is None:
            # To the right end: a whole round leaves them in their order.
            pool._queue.offer(held)
        else:
            if reason == "broken":
                dead = True
                with pool._store.lock:
                    pool._store.counters.count_dead()
            retire(pool, held, reason)
    if dead:
        trust.distrust(pool)


def _verdict(pool: ConnectionPool, entry: Entry, now: float) -> str | None:
    """Return why the idle entry should go, None if it may stay."""
    store = pool._store
    if now >= entry.expires_at:
        # Its successor first, where there is room; it is not handed out any more in any case.
        replaced = growth._missing(pool, now) == 0 or not entry.expires_at
        room = len(store.entries) < store.max_size and not pool._outage.failing_since
        if replaced or not room or pool._queue.waiters:
            return entry.why
        return None
    if pool._validate != "off":
        seen = sockets.look(entry.poll)
        if seen == sockets.DEAD:
            return "broken"
        if seen == sockets.SUSPECT:
            entry.doubt()  # whoever takes it asks the server first
    if len(store.entries) > store.max_size and _staying(pool) > store.max_size:
        return "excess"
    if len(store.entries) > store.min_size and now - entry.since >= _max_idle(pool):
        return "max_idle"
    return None


def _staying(pool: ConnectionPool) -> int:
    """Return how many are open that have not been told to go already."""
    return sum(entry.expires_at > 0 for entry in list(pool._store.entries))


def _max_idle(pool: ConnectionPool) -> float:
    return math.inf if pool.max_idle is None else pool.max_idle


def _next_due(pool: ConnectionPool, now: float) -> float:
    store = pool._store
    due = math.inf
    with store.lock:
        surplus = len(store.entries) > store.min_size
        early = growth.replace_before(pool) if store.min_size else 0.0
        for entry in list(store.entries):
            due = min(due, entry.expires_at - early)
            if surplus:
                due = min(due, entry.since + _max_idle(pool))
            due = min(due, now + LOOK_EVERY)
        for attempt in store.under_way():
            if attempt.overdue_at > now:
                due = min(due, attempt.overdue_at)
        if growth._missing(pool, now) or pool._queue.waiters:
            due = min(due, max(pool._outage.retry_at, now + 0.5))
        if pool._outage.name == DOWN:
            due = min(due, pool._outage.reminder_at)
            if not (pool._outage.given_up or pool._outage.paused):
                due = min(due, max(pool._outage.retry_at, now + 0.01))
    # What could not be done at its time (an expired one that is lent) waits for the next look.
    return due if due > now else now + 1.0
