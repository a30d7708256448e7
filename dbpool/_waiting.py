"""What a caller without a connection does: queue, sleep, and look after itself meanwhile."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

from . import _growth
from ._connecting import Failure
from ._ending import find_lost, reclaim
from ._handover import CLOSED, FREE_THREADED, dequeue, offer, settle
from ._state import DOWN
from .errors import ConnectFailed, PoolClosed, PoolDown, PoolTimeout, TooManyRequests

if TYPE_CHECKING:
    from ._entry import Held
    from .pool import ConnectionPool

__all__ = ["GONE", "Waiter", "nap", "refusal", "timed_out", "wait_for_connection"]

GONE = object()  # the answer a waiter gives itself when it stops waiting

BELT = 0.5  # seconds after which a waiter looks for itself what nobody told it
COLLECT_EVERY = 10.0  # seconds between two garbage collections that waiters ask for
_collected_at = 0.0


class Waiter:
    """One caller in the queue. It is answered once: delivery, timeout and close cannot all win."""

    __slots__ = ("_answer", "_lock", "since")

    def __init__(self, now: float) -> None:
        # A lock taken at birth is the cheapest thing to sleep on (an Event costs 36 times as
        # much). threading.Lock is looked up now, so that a late monkey-patch is honoured.
        self._lock = threading.Lock()
        self._lock.acquire()
        self._answer: dict[int, Any] = {}
        self.since = now

    def deliver(self, answer: Any) -> bool:
        """Answer, from any thread. False if somebody (or the waiter itself) was first."""
        # setdefault is one atomic step: it decides who wins.
        if self._answer.setdefault(0, answer) is not answer:
            return False
        try:
            self._lock.release()
        except RuntimeError:  # two who close the pool bring the same answer
            pass
        return True

    def wait(self, seconds: float) -> bool:
        """Sleep until answered, at most `seconds`; True if answered."""
        if seconds > 0 and not self._answer:
            self._lock.acquire(True, seconds)  # a keyword would cost as much as the lock
        return bool(self._answer)

    def withdraw(self) -> Any:
        """Stop waiting. Return the answer that came first, else GONE."""
        return self._answer.setdefault(0, GONE)


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
    if not pool._background:  # else the keeper does it, as soon as one is dropped
        find_lost(pool)
    waiter = Waiter(started)
    queued = False
    try:
        if pool._state != "open":
            raise pool._closed_error()
        if again or pool.max_waiting or pool._backoff.failure is not None:
            _enqueue_with_care(pool, waiter, again)
        else:  # the ordinary case of a busy pool, without its lock
            pool._waiters.append(waiter)
        queued = True
        if pool._state != "open":  # closed meanwhile, and those only were told who stood there
            raise pool._closed_error()
        if pool._idle or FREE_THREADED:
            settle(pool)
        _sleep(pool, waiter, deadline)
        answer = waiter.withdraw()
        if isinstance(answer, tuple):
            return answer  # a connection and its entry
        raise refusal(pool, answer, time.monotonic() - started)
    except BaseException:
        answer = waiter.withdraw()
        dequeue(pool, waiter)
        if isinstance(answer, tuple):  # it came in the same instant: the next one gets it
            offer(pool, answer)
        with pool._lock:  # who is served is counted with the connection
            pool._totals.failed += 1
            pool._totals.queued += queued
        raise


def _enqueue_with_care(pool: ConnectionPool, waiter: Waiter, again: bool) -> None:
    """Queue, unless there is a reason to be refused at once."""
    waiters = pool._waiters
    with pool._lock:
        failure = pool._backoff.permanent
        if failure is not None and not pool._entries and waiter.since < pool._backoff.retry_at:
            raise refusal(pool, failure, 0.0)
        if 0 < pool.max_waiting <= len(waiters) and not again:
            raise pool._error(TooManyRequests)(
                f"pool {pool.name!r}: {len(waiters)} callers are waiting for a connection already "
                f"(max_waiting={pool.max_waiting}, {len(pool._in_use)} of {pool.max_size} in "
                "use): try again later, or make max_size or max_waiting larger"
            )
        pool._backoff.given_up = False  # somebody asks: connecting goes on
        if again:
            waiters.appendleft(waiter)
        else:
            waiters.append(waiter)


def _sleep(pool: ConnectionPool, waiter: Waiter, deadline: float) -> None:
    """Return when answered or at the deadline; see now and then to what wakes nobody."""
    collected = False
    while True:
        if pool._owned:
            reclaim(pool)
        now = time.monotonic()
        left = min(deadline, pool._reach.patience(pool, waiter.since)) - now
        if left > 0 or pool._background:  # a connect made here takes time that must be left
            _growth.grow(pool)
        if waiter.wait(min(left, nap(pool, now, waiter.since))):
            return
        if min(deadline, pool._reach.patience(pool, waiter.since)) <= time.monotonic():
            return
        if not collected and left <= 2 * BELT:
            collected = True
            _collect(now)
        find_lost(pool)
        if settle(pool):
            with pool._lock:
                pool._totals.rescues += 1


def nap(pool: ConnectionPool, now: float, since: float) -> float:
    """Return how long one that waits `since` may sleep before it may have to do something."""
    if len(pool._entries) >= pool.max_size:
        return BELT
    pause = pool._backoff.retry_at - now
    if pause > 0:
        return min(pause, BELT)
    if not 0 < len(pool._connecting) < pool._max_connecting:
        return BELT  # who ends a connect looks for the next one to make
    left = since + _growth.PATIENCE - now
    return left if left > 0 else BELT


def _collect(now: float) -> None:
    """Find connections that were dropped in reference cycles, before somebody times out."""
    global _collected_at
    if now - _collected_at >= COLLECT_EVERY:
        _collected_at = now
        gc.collect()


def timed_out(pool: ConnectionPool, waited: float, *, queued: bool) -> BaseException:
    """Return the error for a caller whose time went by on connections that did not answer."""
    with pool._lock:
        pool._totals.failed += 1
        pool._totals.queued += queued
    return refusal(pool, GONE, waited)


def refusal(pool: ConnectionPool, answer: Any, waited: float) -> BaseException:
    """Return the error for a caller that gets no connection."""
    if answer is CLOSED:
        return pool._error(PoolClosed)(
            f"pool {pool.name!r} was closed while this caller waited for a connection"
        )
    if isinstance(answer, Failure):
        error: Any = pool._error(ConnectFailed)(
            f"pool {pool.name!r} cannot connect, and trying again will not help: "
            f"{_WORDS.get(answer.reason, answer.reason)}"
        )
        error.reason = answer.reason
        error.__cause__ = answer.error
        return error  # type: ignore[no-any-return]
    size, in_use, waiting = len(pool._entries), len(pool._in_use), len(pool._waiters)
    failure = pool._backoff.failure
    down = pool._reach.name == DOWN and not pool._reach.paused and failure is not None
    if pool._reach.paused:
        why = "the pool is paused: call resume()"
    elif failure is not None:
        cause = failure.error
        tried = f", {pool._reach.attempts} times by now" if down else ""
        why = f"connecting fails ({failure.reason}){tried}: is the database up and reachable?"
        if failure.reason == "check_failed":
            why = (
                f"no new connection passes its check ({type(cause).__name__}): see the cause, and "
                "what check does"
            )
        elif not isinstance(cause, (pool._driver.OperationalError, OSError)):
            why = (
                f"connecting fails with {type(cause).__name__}, which is none of the server's "
                "errors: see its cause, and what conninfo, kwargs and configure do"
            )
    elif pool._reach.full:
        why = "the server has no room for more connections (too_many_connections)"
    elif pool._connecting and in_use < pool.max_size:
        why = "connecting takes too long: is the database slow or unreachable?"
    elif in_use < pool.max_size:
        why = "connections did not answer or pass their check: is the database well?"
    else:
        why = "return connections sooner, or make max_size or timeout larger"
    error = pool._error(PoolDown if down else PoolTimeout)(
        f"pool {pool.name!r}: no connection within {waited:.2f} s; {in_use} of {pool.max_size} "
        f"in use, {size} open, {max(0, waiting - 1)} others waiting: {why}"
    )
    error.waited, error.size, error.in_use = waited, size, in_use
    error.waiting = max(0, waiting - 1)
    error.__cause__ = failure.error if failure is not None else None
    now = time.monotonic()
    with pool._lock:
        pool._totals.timeouts += 1
        if down:
            pool._totals.down += 1
            pool._reach.tell(error, now, pool._backoff.retry_at)
    if not down:  # else it is no word about the pool's size
        pool._timed_out_at = now
    return error  # type: ignore[no-any-return]


_WORDS = {
    "auth": "the server refuses the user or password",
    "unknown_database": "the database does not exist",
}
