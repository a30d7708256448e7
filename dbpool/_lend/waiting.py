"""What a caller without a connection does: queue, sleep, and look after itself meanwhile."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

from .._connect.growth import PATIENCE
from .._runtime.clock import monotonic
from .._store.handoff import FREE_THREADED
from .._store.waiter import CLOSED, Waiter
from .._upkeep.lifecycle import closed_error
from ..errors import PoolClosed, TooManyRequests

if TYPE_CHECKING:
    from collections import deque

    from .._connect.growth import Growth
    from .._store.entry import Held
    from .refusal import Refusals

__all__ = ["Waiting"]

SOON = 0.02  # seconds that one who asks a full pool waits before it sees to anything
BELT = 0.5  # seconds after which a waiter looks for itself what nobody told it
COLLECT_EVERY = 10.0  # seconds between two garbage collections that waiters ask for
_collected_at = 0.0


def _collect(now: float) -> None:
    """Find connections that were dropped in reference cycles, before somebody times out."""
    global _collected_at
    if now - _collected_at >= COLLECT_EVERY:
        _collected_at = now
        gc.collect()


def _full(waiters: deque[Any], most: int) -> bool:
    """Return whether as many wait as may; one that has been answered waits no longer.

    It stays in the queue until whoever answered takes it off, which a busy machine puts off.
    """
    waiting = sum(one is not CLOSED and not one._answer for one in list(waiters))
    return waiting >= most


class Waiting:
    """The queue of one pool, as a caller goes through it. Any thread may."""

    def __init__(self, growth: Growth, refusals: Refusals) -> None:
        self.growth = growth
        self.store, self.queue = growth.store, growth.queue
        self.outage = growth.outage
        self.settings = growth.settings
        self.runner = growth.runner
        self.refusals = refusals

    def wait_for_connection(
        self,
        started: float,
        deadline: float,
        *,
        again: bool = False,
    ) -> Held:
        """Queue until a connection is there; raise what acquiring raises.

        Arguments: `started` and `deadline` on the monotonic clock; `again` for a caller that was
        served a connection which turned out to be dead, and goes back to the head of the queue.
        """
        if sys.is_finalizing():  # no other thread runs any more, and a driver can import nothing
            raise self.refusals.error(PoolClosed)(
                f"pool {self.store.name!r}: the interpreter ends, and no connection is idle: use "
                "the pool before the program ends, not in a destructor"
            )
        if not self.runner.threads:  # else the keeper does it, as soon as one is dropped
            self.growth.find_lost()
        waiter = Waiter(started)
        queued = False
        try:
            if self.store.phase != "open":
                raise closed_error(self.store)
            if again or self.settings.max_waiting or self.outage.failure is not None:
                self._enqueue_with_care(waiter, again)
            else:  # the ordinary case of a busy pool, without its lock
                self.queue.waiters.append(waiter)
            queued = True
            if (
                self.store.phase != "open"
            ):  # closed meanwhile, and those only were told who stood there
                raise closed_error(self.store)
            if self.queue.idle or FREE_THREADED:
                self.queue.match()
            # The ordinary case of a busy pool: it is served soon, and has seen to nothing.
            full = len(self.store.entries) >= self.store.max_size
            if full and waiter.wait(min(SOON, deadline - started)):
                answer = waiter._answer[0]
            else:
                self._sleep(waiter, deadline)
                answer = waiter.withdraw()
            if type(answer) is tuple:
                return answer  # a connection and its entry
            raise self.refusals.refusal(answer, monotonic() - started, deadline - started)
        except BaseException:
            answer = waiter.withdraw()
            self.queue.leave(waiter)
            if isinstance(answer, tuple):  # it came in the same instant: the next one gets it
                self.queue.offer(answer)
            with self.store.lock:  # who is served is counted with the connection
                self.store.counters.count_failure(queued=queued)
            raise

    def _enqueue_with_care(self, waiter: Waiter, again: bool) -> None:
        """Queue, unless there is a reason to be refused at once."""
        store, waiters, most = self.store, self.queue.waiters, self.settings.max_waiting
        with store.lock:
            failure = self.outage.permanent
            if failure is not None and not store.entries and waiter.since < self.outage.retry_at:
                raise self.refusals.refusal(failure, 0.0)
            if 0 < most <= len(waiters) and not again and _full(waiters, most):
                raise self.refusals.error(TooManyRequests)(
                    f"pool {store.name!r}: {len(waiters)} callers are waiting for a connection "
                    f"already (max_waiting={most}, {len(store.in_use)} of {store.max_size} in "
                    "use): try again later, or make max_size or max_waiting larger"
                )
            self.outage.asked()
            if again:
                waiters.appendleft(waiter)
            else:
                waiters.append(waiter)

    def _sleep(self, waiter: Waiter, deadline: float) -> None:
        """Return when answered or at the deadline; see now and then to what wakes nobody."""
        collected = False
        while True:
            if self.store.owned:
                self.growth.reclaim()
            now = monotonic()
            left = min(deadline, self.outage.gives_up_at(waiter.since)) - now
            # A connect made here takes time that must be left; down_wait need not be, since without
            # a thread nobody else would find out that the server is back.
            if self.runner.threads or now < deadline:
                self.growth.grow_or_start(waiter.since, now)
            if waiter.wait(min(left, self.nap(now, waiter.since))):
                return
            if min(deadline, self.outage.gives_up_at(waiter.since)) <= monotonic():
                return
            # It holds the GIL: not in an outage, where nothing is open that could be dropped.
            if not collected and left <= 2 * BELT and self.store.entries:
                collected = True
                _collect(now)
            self.growth.find_lost()
            if self.queue.match():
                with self.store.lock:
                    self.store.counters.count_rescue()

    def nap(self, now: float, since: float) -> float:
        """Return how long one that waits `since` may sleep before it may have to do something."""
        if len(self.store.entries) >= self.store.max_size:
            return BELT
        if self.runner.refused:  # callers connect themselves, and who cannot start a thread is slow
            return SOON
        pause = self.outage.retry_at - now
        if pause > 0:
            return min(pause, BELT)
        if not 0 < len(self.store.attempts) < self.settings.max_connecting:
            return BELT  # who ends a connect looks for the next one to make
        left = since + PATIENCE - now
        return left if left > 0 else BELT
