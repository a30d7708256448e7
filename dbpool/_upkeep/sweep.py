"""What is due for the idle connections of a pool, and when to come back."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from .._connect import stuck
from .._connect.outage import DOWN
from .._runtime import sockets
from .._runtime.clock import monotonic
from ..drivers.base import LOST
from . import trust

if TYPE_CHECKING:
    from .._connect.growth import Growth
    from .._connect.outage import Outage
    from .._connect.replies import Replies
    from .._runtime.runner import Runner
    from .._store.entry import Entry
    from .._store.handoff import Handoff
    from .._store.inventory import Inventory
    from .._store.settings import Settings

__all__ = ["Sweep"]

logger = logging.getLogger("dbpool.pool")

LOOK_EVERY = 10.0  # seconds between two looks at the idle connections of a quiet pool


class Sweep:
    """The upkeep of one pool: a task of the scheduler, or of its callers (`background=False`)."""

    def __init__(self, growth: Growth, replies: Replies) -> None:
        self.name = growth.store.name
        self.growth: Growth = growth
        self.store: Inventory = growth.store
        self.queue: Handoff = growth.queue
        self.outage: Outage = growth.outage
        self.settings: Settings = growth.settings
        self.runner: Runner = growth.runner
        self._replies = replies
        self.clear()
        self.runner.serve(self)

    def clear(self) -> None:
        """Have nothing due; also in a forked child. Callers look each time they come by."""
        self.due = math.inf if self.runner.threads else -math.inf

    def run(self, now: float) -> float:
        """Do what is due; return when to come back. No network I/O, and it never blocks long."""
        self.sweep(now)
        growth = self.growth
        growth.finish_recovery()
        if self.store.attempts:
            stuck.tell(self.store, self.outage, self._replies, now)
        if line := self.outage.reminder(now):
            logger.warning("%s", line)
        if self.runner.threads:
            growth.start_connectors()
        else:
            growth.connect_all()
        return self._next_due(now)

    def sweep(self, now: float) -> None:
        """Look at every idle connection; close the dead, the expired, and the long unused."""
        idle = self.queue.idle
        dead = False
        for _ in range(len(idle)):
            try:
                held = idle.popleft()
            except IndexError:
                break
            reason = self._verdict(held[1], now)
            if reason is None:
                # To the right end: a whole round leaves them in their order.
                self.queue.offer(held)
            else:
                if reason == "broken":
                    dead = True
                    with self.store.lock:
                        self.store.counters.count_dead()
                self.growth.retire(held, reason)
        if dead:
            trust.mark_all_untrusted(self.store)

    def _verdict(self, entry: Entry, now: float) -> str | None:
        """Return why the idle entry should go, None if it may stay."""
        if now >= entry.expires_at:
            # Its successor first, where there is room; it is not handed out any more in any case.
            replaced = self.growth.missing(now) == 0 or not entry.expires_at
            room = len(self.store.entries) < self.store.max_size and not self.outage.failing_since
            if replaced or not room or self.queue.waiters:
                return entry.why
            return None
        if self.settings.validate != "off":
            seen = sockets.look(entry.poll)
            if seen == sockets.DEAD:
                return "broken"
            if seen == sockets.SUSPECT:
                entry.mark_untrusted()  # whoever takes it asks the server first
        if len(self.store.entries) > self.store.max_size and self._staying() > self.store.max_size:
            return "excess"
        if (
            len(self.store.entries) > self.store.min_size
            and now - entry.since >= self.settings.max_idle
        ):
            return "max_idle"
        return None

    def _staying(self) -> int:
        """Return how many are open that have not been told to go already."""
        return sum(entry.expires_at > 0 for entry in list(self.store.entries))

    def _next_due(self, now: float) -> float:
        due = math.inf
        with self.store.lock:
            surplus = len(self.store.entries) > self.store.min_size
            early = self.growth.replace_before() if self.store.min_size else 0.0
            for entry in list(self.store.entries):
                due = min(due, entry.expires_at - early)
                if surplus:
                    due = min(due, entry.since + self.settings.max_idle)
                due = min(due, now + LOOK_EVERY)
            for attempt in self.store.under_way():
                if attempt.overdue_at > now:
                    due = min(due, attempt.overdue_at)
            if self.growth.missing(now) or self.queue.waiters:
                due = min(due, max(self.outage.retry_at, now + 0.5))
            if self.outage.name == DOWN:
                due = min(due, self.outage.reminder_at)
                if not (self.outage.given_up or self.outage.paused):
                    due = min(due, max(self.outage.retry_at, now + 0.01))
        # What could not be done at its time (an expired one that is lent) waits for the next look.
        return due if due > now else now + 1.0

    def recheck_all(self) -> None:
        """Have all idle connections looked at now, and each one pinged before it is lent next."""
        trust.mark_all_untrusted(self.store)
        if not self.runner.wake(0.0):
            self.sweep(monotonic())

    def report(self, conn: Any, error: BaseException) -> bool:
        """Judge an error of the driver's; return whether it ends the session."""
        entry = self.store.entry_of(conn)
        try:
            if not trust.ends_session(self.store.driver, self.settings.role, conn, error):
                return False
        except Exception:
            if entry is not None:
                raise
            return False  # what is nobody's may be no connection at all
        if entry is not None:
            entry.mark_for_closing("broken")
        if self.store.driver.how_closed(conn) == LOST:  # else it says nothing of the others
            self.recheck_all()
        return True
