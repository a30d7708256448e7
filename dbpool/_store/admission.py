"""Admission by waiting time: under overload some are refused soon, instead of all waiting long.

The algorithm is CoDel (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 2012) as Ecto's
db_connection applies it to the queue for a pool (DBConnection.ConnectionPool). A queue that empties
now and then is a burst, and is left alone. One whose shortest wait in a whole interval is above the
target is overload: from then on, whoever has waited for more than twice the target is refused, and
a younger one is served in its place.
"""

from __future__ import annotations

import math
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .._runtime.scheduler import keeper
from .waiter import CLOSED, OVERLOADED

if TYPE_CHECKING:
    from .handoff import Handoff
    from .waiter import Waiter

__all__ = ["Admission", "CoDel"]


class CoDel:
    """Whether the head of the queue is to be served or refused. Thread-safe.

    Arguments: `target`, seconds of waiting that are fine; `interval`, seconds over which the
    shortest wait is taken; `now` on the monotonic clock, as everywhere here.
    """

    def __init__(self, target: float, interval: float, now: float) -> None:
        self.target = target
        self.interval = interval
        # Guards the rest. Re-entrant: a signal handler may return a connection at any point.
        self._lock = threading.RLock()
        self._shortest = 0.0  # wait of anybody served in this interval
        self._ends = now + interval  # of this interval
        self._slow = False
        self._seen: float | None = None  # since when the head of the last tick had been waiting

    def refuses(self, waited: float, now: float, others: int) -> bool:
        """Return whether the head of the queue is refused instead of getting a connection.

        Arguments: `waited`, seconds; `others`, how many wait behind it. The last one is served:
        there is nobody to be served in its place.
        """
        with self._lock:
            if now >= self._ends:  # nobody is refused on this turn
                # A queue whose head has come since the interval ended was empty in between.
                stands = now - waited <= self._ends
                self._begin(now, stands and self._shortest > self.target, waited)
                return False
            if self._slow and others and waited > 2 * self.target:
                return True
            self._shortest = min(self._shortest, waited)
            return False

    def empty(self) -> None:
        """Note that a connection came back and nobody was waiting."""
        if self._shortest:  # read without the lock: that is what costs nothing on a quiet pool
            with self._lock:
                self._shortest = 0.0

    def tick(self, head_since: float | None, now: float) -> bool:
        """Return whether those who have waited for too long are to be refused now.

        For a timer, once an interval: where nothing comes back, nothing else would refuse anybody.
        Arguments: `head_since`, when the head of the queue began to wait, None if nobody waits.
        """
        with self._lock:
            seen, self._seen = self._seen, now if head_since is None else head_since
            if head_since is None:
                self._shortest = 0.0
                return False
            # Served since the last tick: then the returns decide.
            stands = seen is not None and head_since <= seen
            if not stands or now < self._ends:
                return False
            refuse = self._shortest > self.target
            self._begin(now, refuse, now - head_since)
            return refuse

    def too_long(self, waited: float) -> bool:
        """Return whether somebody who has waited so long is refused when `tick` says so."""
        return waited > 2 * self.target

    def _begin(self, now: float, slow: bool, shortest: float) -> None:
        self._slow = slow
        self._ends = now + self.interval
        self._shortest = shortest


class Admission:
    """The CoDel of one pool's queue; the keeper calls it where nothing comes back.

    Arguments: `name`, the pool's; `target` and `interval` as `CoDel` has them.
    """

    def __init__(self, name: str, target: float, interval: float) -> None:
        self.name = name
        self._codel = CoDel(target, interval, monotonic())

    def begin(self, queue: Handoff) -> None:
        """Know nothing of this queue yet; also in a forked child, where the lock may be held."""
        self._queue = weakref.ref(queue)
        self._codel = CoDel(self.target, self.interval, monotonic())
        self.due = 0.0  # looked at first when the keeper first runs
        self.empty = self._codel.empty

    @property
    def target(self) -> float:
        """Seconds of waiting that are fine."""
        return self._codel.target

    @property
    def interval(self) -> float:
        """Seconds over which the shortest wait is taken."""
        return self._codel.interval

    def refuses(self, waiter: Waiter, others: int) -> bool:
        """Refuse the head of the queue, if it has to be refused, in place of serving it."""
        now = monotonic()
        if not self._codel.refuses(now - waiter.since, now, others):
            return False
        waiter.deliver(OVERLOADED)
        return True

    def run(self, now: float) -> float:
        """Refuse those who have waited for too long, if nobody is served; return when to return."""
        queue = self._queue()
        if queue is None or queue.shut:
            keeper.forget(self)
            return math.inf
        waiters: list[Any] = [one for one in list(queue.waiters) if one is not CLOSED]
        if self._codel.tick(waiters[0].since if waiters else None, now):
            for waiter in waiters:
                if self._codel.too_long(now - waiter.since):
                    waiter.deliver(OVERLOADED)  # it leaves the queue by itself
        return now + self._codel.interval
