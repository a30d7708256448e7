"""Growing and shrinking: when a connect is wanted, who makes it, and how a connection leaves."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from .._runtime import threads
from .._runtime.clock import monotonic
from .._store.attempt import Attempt
from . import stuck
from .outage import DOWN, RECOVERING

if TYPE_CHECKING:
    from .._store.entry import Entry, Held
    from .connector import Connector

__all__ = ["Growth"]

PATIENCE = 0.025  # seconds the oldest waiter waits before a second connect joins the first
LATE = 0.4  # seconds after which nobody waits for the keeper any more
REPLACE_BEFORE = 1.0  # seconds; see `replace_before`


def _run(ref: weakref.ref[Growth], attempt: Attempt) -> None:
    """The body of a connector thread."""
    growth = ref()
    if growth is None:
        return
    try:
        growth.make(attempt)
        del attempt
        growth.connect_all()
    except SystemExit:  # a callback's: it counts as a failed connect, and ends this thread
        pass


class Growth:
    """Keeps as many connections open as are wanted. One per pool."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.store, self.queue = connector.store, connector.queue
        self.outage = connector.outage
        self.settings = connector.settings
        self.runner = connector.runner
        connector.home = weakref.ref(self)

    def grow(self) -> None:
        """See to it that connects are started, if any are wanted and allowed.

        The keeper starts the threads for them, so that no caller does: a thread that is interrupted
        while it starts another one may wait for it for ever (CPython before 3.13).
        """
        store = self.store
        if len(store.entries) >= store.max_size:  # a busy pool, without its lock
            return
        if self.wanted(monotonic()) and (self.runner.refused or not self.runner.wake(0.0)):
            self.connect_all()

    def grow_or_start(self, asked_at: float, now: float) -> None:
        """Grow; do the keeper's part where it has not come since `asked_at`.

        It blocks nowhere, but a log handler of the user's may: no pool needs the keeper to be
        correct.
        """
        if now - asked_at >= LATE and self.runner.overdue and not self.runner.refused:
            self.start_connectors()
        else:
            self.grow()

    def start_connectors(self) -> None:
        """Start a thread for each connect that is wanted and allowed: the keeper's part."""
        while (attempt := self._reserve()) is not None:
            thread = threads.Thread(
                _run, (weakref.ref(self), attempt), f"dbpool-connect-{self.store.name}"
            )
            try:
                threads.start(thread)
            except RuntimeError:  # no more threads to be had: callers connect themselves
                self.runner.refused = True
                return
            self.runner.refused = False

    def make(self, attempt: Attempt) -> None:
        """Make one connection in this thread."""
        if self.connector.make(attempt):
            self.finish_recovery()

    def connect_all(self) -> None:
        """Make in this thread whatever connects are wanted."""
        while (attempt := self._reserve()) is not None:
            self.make(attempt)

    def _reserve(self) -> Attempt | None:
        """Return a slot to connect for, if one is wanted and free."""
        now = monotonic()
        with self.store.lock:
            if not self.wanted(now):
                return None
            if not self.outage.begins(now):
                return None
            attempt = Attempt(now, self.settings.connect_timeout)
            self.store.attempts[id(attempt)] = weakref.ref(attempt)
            timely = sum(each.overdue_at > now for each in self.store.under_way())
            if len(self.store.entries) + timely > self.store.max_size:
                return None  # a signal handler has connected meanwhile
            return attempt

    def wanted(self, now: float) -> bool:
        """Return whether a connect should be started now.

        Demand is looked at anew before each connect: what was served meanwhile asks for none.
        """
        with self.store.lock:
            if self.store.phase != "open" or self.outage.paused or now < self.outage.retry_at:
                return False
            attempts = self.store.under_way()
            timely = sum(attempt.overdue_at > now for attempt in attempts)
            size = self.outage.capacity(self.store, now)
            if not stuck.may_join(self.store, self.outage, attempts, timely, size, now):
                return False
            # Who is about to be served queues still.
            waiting = len(self.queue.waiters) - len(self.store.under_way(arrived=True))
            if self.outage.name == DOWN and not self.outage.given_up:
                return True  # the one prober: it waits for nobody's demand
            # What serves a waiter counts towards the minimum, so one connect meets both.
            if max(waiting, self.missing(now)) <= timely:
                return False
            # A burst over short work is over before a connect is: while connections circulate, one
            # connect at a time will do, unless the oldest caller has waited for some time already.
            return not (
                waiting > 0
                and timely
                and self.store.entries
                and self.queue.oldest_wait(now) < PATIENCE
            )

    def finish_recovery(self) -> None:
        """End a recovery that has no more to do."""
        if self.outage.name == RECOVERING:
            with self.store.lock:
                idle = not self.queue.waiters and not self.missing(monotonic())
                self.outage.finish_recovery(idle)

    def missing(self, now: float) -> int:
        """Return how many connections the minimum lacks, those that end in a moment included."""
        if self.store.min_size == 0 or self.outage.given_up:
            return 0
        soon = now + self.replace_before()
        return max(
            0,
            self.store.min_size
            - sum(entry.expires_at > soon for entry in list(self.store.entries)),
        )

    def replace_before(self) -> float:
        """Return how long before its end a connection of the minimum gets its successor."""
        # A tenth at most of what it lives: else a new one would be in want of a successor at once.
        return min(REPLACE_BEFORE, self.settings.max_lifetime / 10)

    def retire(self, held: Held | tuple[None, Entry], reason: str) -> None:
        """Close a connection that is ours alone, free its slot whatever happens, and fill that."""
        self.store.close(held, reason)
        if self.queue.waiters or self.store.min_size:
            self.grow()

    def reclaim(self) -> None:
        """Take back what is lent to owners that are dead; called when the pool is exhausted."""
        for entry in list(self.store.in_use.values()):
            owner = entry.owner
            if owner is None or owner[0] != entry.uses or owner[1].is_alive():
                continue
            if self.store.in_use.pop(entry.key, None) is entry:
                with self.store.lock:
                    self.store.counters.count_leaks(1)
                entry.count_loan()
                self.retire((entry(), entry), "abandoned")

    def find_lost(self) -> None:
        """Free the slots of connections that were dropped without being returned, and fill them."""
        if self.store.drop_lost():
            self.grow()
