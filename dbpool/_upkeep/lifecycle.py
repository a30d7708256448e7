"""Changing the sizes of a pool, closing it, and starting anew in a forked child."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from .. import options
from .._connect import growth, retire
from .._connect.outage import DOWN
from .._runtime import forks
from .._runtime.clock import monotonic
from .._runtime.scheduler import keeper
from .._store.waiter import CLOSED
from . import sweep, usable

if TYPE_CHECKING:
    from ..pool import ConnectionPool

__all__ = [
    "at_exit",
    "check",
    "close",
    "drain",
    "pause",
    "resize",
    "resume",
    "start_in_child",
]

STRAGGLERS = 0.1  # seconds in which a return that is under way has come to its end


def close(pool: ConnectionPool, timeout: float) -> None:
    """Close for good: first the waiters are told, then what is idle closes."""
    store = pool._store
    timeout = options.seconds("timeout", timeout)
    with store.lock:
        store.phase = "closed"
        for entry in list(store.entries):
            entry.mark_for_closing("closed")
        if CLOSED not in pool._queue.waiters:
            pool._queue.waiters.append(CLOSED)
    pool._queue.answer_all(CLOSED)
    retire.find_lost(pool)
    pool._queue.match()  # CLOSED stands in the queue: whatever is offered to it is closed
    until = monotonic() + timeout
    me = threading.get_ident()  # a callback that closes the pool is part of a connect itself
    while any(each.made_by != me and each.overdue_at > monotonic() for each in store.under_way()):
        if monotonic() >= until:
            break
        time.sleep(0.005)
    keeper.forget(pool)
    if pool._prober is not None:
        pool._prober.close()
    pool._driver.pool_closed()


def at_exit(pool: ConnectionPool) -> None:
    """Close what is idle: the process ends. Nobody is told, and nothing is waited for.

    An error in a waiter would be the last word of a daemon thread that is about to vanish, and an
    exit handler that was registered earlier may have use for the pool yet.
    """
    while True:
        try:
            held = pool._queue.idle.pop()
        except IndexError:
            break
        pool._store.close(held, "closed")
    if pool._prober is not None:
        pool._prober.close()


def drain(pool: ConnectionPool) -> None:
    """Renew everything that is open."""
    store = pool._store
    with store.lock:
        for entry in list(store.entries):
            entry.mark_for_closing("drained")
        for attempt in store.under_way():  # begun before, perhaps with yesterday's password
            attempt.unwanted = "drained"
    _end_idle(pool)
    growth.grow(pool)


def resize(pool: ConnectionPool, min_size: int, max_size: int) -> None:
    """Change the sizes; idle ones beyond go at once, then lent ones as they come back."""
    store = pool._store
    with store.lock:
        # The longest idle first, those that are lent last.
        order = sorted(store.entries, key=lambda entry: (entry.key in store.in_use, entry.since))
        for entry in order[: max(0, len(order) - max_size)]:
            entry.mark_for_closing("excess")
        store.min_size, store.max_size = min_size, max_size
        if pool._outage.name == DOWN and len(store.entries) >= max_size:
            pool._outage.resume()  # it has all that it may have: no connect would tell it
    _end_idle(pool)
    growth.grow(pool)
    growth.finish_recovery(pool)


def _end_idle(pool: ConnectionPool) -> None:
    """Close what is idle and has to go: now, and soon again.

    A return that was under way may lay its connection down after the sweep has passed. Nobody
    would be lent it, but it would stay open until the next look.
    """
    now = monotonic()
    sweep.sweep(pool, now)
    if not pool._store.entries:
        return
    if pool._background:
        keeper.schedule(pool, now + STRAGGLERS)
    else:
        pool._due = -math.inf  # the next caller that waits sees to it


def pause(pool: ConnectionPool, seconds: float) -> bool:
    """Lend nothing, and close what is open."""
    store = pool._store
    until = monotonic() + options.seconds("wait", seconds)
    with store.lock:
        if store.phase != "open":
            raise pool._closed_error()
        pool._outage.paused = True
        for entry in list(store.entries):
            entry.mark_for_closing("paused")
        for attempt in store.under_way():
            attempt.unwanted = "paused"
    if pool._prober is not None:
        pool._prober.close()  # its spare connection, which would keep a server from stopping
    _end_idle(pool)
    while True:
        sweep.sweep(pool, monotonic())
        if not store.entries and not store.under_way():
            return True
        if monotonic() >= until:
            return False
        time.sleep(0.005)


def resume(pool: ConnectionPool) -> None:
    """Lend again; the server may just have started, so not all at once."""
    with pool._store.lock:
        if not pool._outage.paused:
            return
        pool._outage.paused = False
        pool._outage.resume()
    growth.grow(pool)
    growth.finish_recovery(pool)


def check(pool: ConnectionPool) -> None:
    """Ask the server on every idle connection now."""
    with pool._store.lock:
        pool._outage.try_anew(monotonic())
    for _ in range(len(pool._queue.idle)):
        try:
            held = pool._queue.idle.popleft()
        except IndexError:
            break
        usable.ping_or_retire(pool, held)
    growth.grow(pool)


def start_in_child(pool: ConnectionPool) -> None:
    """Leave what is open to the parent process, and start empty; called at a fork."""
    store = pool._store
    inherited = dict(store.inherited)
    lent = [entry.owner for entry in list(store.in_use.values()) if entry.owner is not None]
    for entry in list(store.entries):
        conn = entry()
        if conn is not None:
            forks.abandon(pool._driver, conn)
            inherited[id(conn)] = conn
    for _, owner in lent:
        forks.bereave(owner)
    pool._clear()
    if pool._use_limit is not None:
        pool._use_limit._due = 0.0  # which the parent's keeper may just have been about to write
    store.inherited = inherited
    if store.phase == "open" and pool._background:
        keeper.register(pool)
        if store.min_size:
            pool._due = 0.0  # filled from the first use on: no thread starts in the fork itself
