"""What a caller without a connection does: queue, sleep, and look after itself meanwhile."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

from .._connect import growth
from .._connect.retire import find_lost, reclaim
from .._runtime.clock import monotonic
from .._store.handoff import FREE_THREADED
from .._store.waiter import CLOSED, Waiter
from ..errors import PoolClosed, TooManyRequests
from .refusal import refusal

if TYPE_CHECKING:
    from collections import deque

    from .._store.entry import Held
    from ..pool import ConnectionPool

__all__ = ["nap", "wait_for_connection"]

SOON = 0.02  # seconds that one who asks a full pool waits before it sees to anything
BELT = 0.5  # seconds after which a waiter looks for itself what nobody told it
COLLECT_EVERY = 10.0  # seconds between two garbage collections that waiters ask for
_collected_at = 0.0


def wait_for_connection(
    pool: ConnectionPool,
    started: float,
    deadline: float,
    *,
    again: bool = False,
) -> Held:
    """Queue until a connection is there; raise what acquiring raises.

    Arguments: `started` and `deadline` on the monotonic clock; `again` for a caller that was
    served a connection which turned out to be dead, and goes back to the head of the queue.
    """
    queue = pool._queue
    store = pool._store
    if sys.is_finalizing():  # no other thread runs any more, and a driver can import nothing
        raise pool._error(PoolClosed)(
            f"pool {pool.name!r}: the interpreter ends, and no connection is idle: use the pool "
            "before the program ends, not in a destructor"
        )
    if not pool._background:  # else the keeper does it, as soon as one is dropped
        find_lost(pool)
    waiter = Waiter(started)
    queued = False
    try:
        if store.phase != "open":
            raise pool._closed_error()
        if again or pool.max_waiting or pool._outage.failure is not None:
            _enqueue_with_care(pool, waiter, again)
        else:  # the ordinary case of a busy pool, without its lock
            queue.waiters.append(waiter)
        queued = True
        if store.phase != "open":  # closed meanwhile, and those only were told who stood there
            raise pool._closed_error()
        if queue.idle or FREE_THREADED:
            queue.match()
        # The ordinary case of a busy pool: it is served soon, and has seen to nothing.
        full = len(store.entries) >= store.max_size
        if full and waiter.wait(min(SOON, deadline - started)):
            answer = waiter._answer[0]
        else:
            _sleep(pool, waiter, deadline)
            answer = waiter.withdraw()
        if type(answer) is tuple:
            return answer  # a connection and its entry
        raise refusal(pool, answer, monotonic() - started, deadline - started)
    except BaseException:
        answer = waiter.withdraw()
        queue.leave(waiter)
        if isinstance(answer, tuple):  # it came in the same instant: the next one gets it
            queue.offer(answer)
        with store.lock:  # who is served is counted with the connection
            store.counters.count_failure(queued=queued)
        raise


def _enqueue_with_care(pool: ConnectionPool, waiter: Waiter, again: bool) -> None:
    """Queue, unless there is a reason to be refused at once."""
    store = pool._store
    waiters = pool._queue.waiters
    with store.lock:
        failure = pool._outage.permanent
        if failure is not None and not store.entries and waiter.since < pool._outage.retry_at:
            raise refusal(pool, failure, 0.0)
        if 0 < pool.max_waiting <= len(waiters) and not again and _full(pool, waiters):
            raise pool._error(TooManyRequests)(
                f"pool {pool.name!r}: {len(waiters)} callers are waiting for a connection already "
                f"(max_waiting={pool.max_waiting}, {len(store.in_use)} of {store.max_size} in "
                "use): try again later, or make max_size or max_waiting larger"
            )
        pool._outage.asked()
        if again:
            waiters.appendleft(waiter)
        else:
            waiters.append(waiter)


def _full(pool: ConnectionPool, waiters: deque[Any]) -> bool:
    """Return whether as many wait as may; one that has been answered waits no longer.

    It stays in the queue until whoever answered takes it off, which a busy machine puts off.
    """
    waiting = sum(one is not CLOSED and not one._answer for one in list(waiters))
    return waiting >= pool.max_waiting


def _sleep(pool: ConnectionPool, waiter: Waiter, deadline: float) -> None:
    """Return when answered or at the deadline; see now and then to what wakes nobody."""
    store = pool._store
    collected = False
    while True:
        if pool._owned:
            reclaim(pool)
        now = monotonic()
        left = min(deadline, pool._outage.gives_up_at(waiter.since)) - now
        # A connect made here takes time that must be left; down_wait need not be, since without
        # a thread nobody else would find out that the server is back.
        if pool._background or now < deadline:
            growth.grow_or_start(pool, waiter.since, now)
        if waiter.wait(min(left, nap(pool, now, waiter.since))):
            return
        if min(deadline, pool._outage.gives_up_at(waiter.since)) <= monotonic():
            return
        # It holds the GIL: not in an outage, where nothing is open that could have been dropped.
        if not collected and left <= 2 * BELT and store.entries:
            collected = True
            _collect(now)
        find_lost(pool)
        if pool._queue.match():
            with store.lock:
                store.counters.count_rescue()


def nap(pool: ConnectionPool, now: float, since: float) -> float:
    """Return how long one that waits `since` may sleep before it may have to do something."""
    store = pool._store
    if len(store.entries) >= store.max_size:
        return BELT
    if pool._threads_refused:  # callers connect themselves, and who cannot start a thread is slow
        return SOON
    pause = pool._outage.retry_at - now
    if pause > 0:
        return min(pause, BELT)
    if not 0 < len(store.attempts) < pool._max_connecting:
        return BELT  # who ends a connect looks for the next one to make
    left = since + growth.PATIENCE - now
    return left if left > 0 else BELT


def _collect(now: float) -> None:
    """Find connections that were dropped in reference cycles, before somebody times out."""
    global _collected_at
    if now - _collected_at >= COLLECT_EVERY:
        _collected_at = now
        gc.collect()
