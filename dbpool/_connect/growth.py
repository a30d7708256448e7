"""Growing: when a connect is wanted, and who makes it."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING

from .._runtime import threads
from .._runtime.clock import monotonic
from .._runtime.scheduler import keeper
from .._store.attempt import Attempt
from . import connector, stuck
from .outage import DOWN, RECOVERING

if TYPE_CHECKING:
    from ..pool import ConnectionPool

__all__ = ["connect_all", "finish_recovery", "grow", "grow_or_start", "start_connectors"]

PATIENCE = 0.025  # seconds the oldest waiter waits before a second connect joins the first
LATE = 0.4  # seconds after which nobody waits for the keeper any more
REPLACE_BEFORE = 1.0  # seconds; see replace_before


def grow(pool: ConnectionPool) -> None:
    """See to it that connects are started, if any are wanted and allowed.

    The keeper starts the threads for them, so that no caller does: a thread that is interrupted
    while it starts another one may wait for it for ever (CPython before 3.13).
    """
    if (
        len(pool._store.entries) >= pool._store.max_size
    ):  # the ordinary case of a busy pool, without its lock
        return
    if _wanted(pool, monotonic()):
        threads = pool._background and not pool._threads_refused
        if not (threads and keeper.schedule(pool, 0.0)):
            connect_all(pool)


def grow_or_start(pool: ConnectionPool, asked_at: float, now: float) -> None:
    """Grow; do the keeper's part where it has not come since `asked_at`.

    It blocks nowhere, but a log handler of the user's may: no pool needs the keeper to be correct.
    """
    overdue = now - asked_at >= LATE and pool._due <= 0.0
    if overdue and pool._background and not pool._threads_refused:
        start_connectors(pool)
    else:
        grow(pool)


def start_connectors(pool: ConnectionPool) -> None:
    """Start a thread for each connect that is wanted and allowed; done by the keeper, or for it."""
    while (attempt := _reserve(pool)) is not None:
        thread = threads.Thread(_run, (pool._ref, attempt), f"dbpool-connect-{pool.name}")
        try:
            threads.start(thread)
        except RuntimeError:  # no more threads to be had: callers connect themselves
            pool._threads_refused = True
            return
        pool._threads_refused = False


def _run(ref: weakref.ref[ConnectionPool], attempt: Attempt) -> None:
    """The body of a connector thread."""
    pool = ref()
    if pool is None:
        return
    try:
        _make(pool, attempt)
        del attempt
        connect_all(pool)
    except SystemExit:  # a callback's: it counts as a failed connect, and ends this thread
        pass


def _make(pool: ConnectionPool, attempt: Attempt) -> None:
    if connector.make(pool, attempt):
        finish_recovery(pool)


def connect_all(pool: ConnectionPool) -> None:
    """Make in this thread whatever connects are wanted."""
    while (attempt := _reserve(pool)) is not None:
        _make(pool, attempt)


def _reserve(pool: ConnectionPool) -> Attempt | None:
    """Return a slot to connect for, if one is wanted and free."""
    store = pool._store
    now = monotonic()
    with store.lock:
        if not _wanted(pool, now):
            return None
        if not pool._outage.begins(now):
            return None
        attempt = Attempt(now, pool._connect_timeout)
        store.attempts[id(attempt)] = weakref.ref(attempt)
        timely = sum(each.overdue_at > now for each in store.under_way())
        if len(store.entries) + timely > store.max_size:
            return None  # a signal handler has connected meanwhile
        return attempt


def _wanted(pool: ConnectionPool, now: float) -> bool:
    """Return whether a connect should be started now.

    Demand is looked at anew before each connect: what was served meanwhile asks for none.
    """
    store = pool._store
    with store.lock:
        outage = pool._outage
        if store.phase != "open" or outage.paused or now < outage.retry_at:
            return False
        attempts = store.under_way()
        timely = sum(attempt.overdue_at > now for attempt in attempts)
        if not stuck.may_join(pool, attempts, timely, outage.capacity(store, now), now):
            return False
        # Who is about to be served queues still.
        waiting = len(pool._queue.waiters) - len(store.under_way(arrived=True))
        if outage.name == DOWN and not outage.given_up:
            return True  # the one prober: it waits for nobody's demand
        # What serves a waiter counts towards the minimum, so one connect meets both.
        if max(waiting, _missing(pool, now)) <= timely:
            return False
        # A burst over short work is over before a connect is: while connections circulate, one
        # connect at a time will do, unless the oldest caller has waited for some time already.
        return not (
            waiting > 0 and timely and store.entries and pool._queue.oldest_wait(now) < PATIENCE
        )


def finish_recovery(pool: ConnectionPool) -> None:
    """End a recovery that has no more to do."""
    if pool._outage.name == RECOVERING:
        with pool._store.lock:
            idle = not pool._queue.waiters and not _missing(pool, monotonic())
            pool._outage.finish_recovery(idle)


def _missing(pool: ConnectionPool, now: float) -> int:
    """Return how many connections the minimum lacks, those that end in a moment included."""
    store = pool._store
    if store.min_size == 0 or pool._outage.given_up:
        return 0
    soon = now + replace_before(pool)
    return max(
        0,
        store.min_size - sum(entry.expires_at > soon for entry in list(store.entries)),
    )


def replace_before(pool: ConnectionPool) -> float:
    """Return how long before its end a connection of the minimum gets its successor."""
    # A tenth at most of what it lives: else a new one would be in want of a successor at once.
    return min(REPLACE_BEFORE, (pool.max_lifetime or math.inf) / 10)
