"""How a caller gets a connection where the one on top of the idle ones will not simply do.

`ConnectionPool.getconn` hands out by itself what it may hand out unseen. Here is the rest: none is
idle, or the one that was is due for a look, a ping, a check or its end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import options
from .._runtime import sockets
from .._runtime.clock import monotonic
from .._runtime.deadline import until
from .._shown import shown
from .._upkeep.usable import MIN_ASK

if TYPE_CHECKING:
    from .._store.entry import Entry, Held
    from .._upkeep.usable import Inspector
    from .waiting import Waiting

__all__ = ["Lender"]

Ready = tuple[Any, "Entry", float]  # a connection to be lent, its entry, and the time it is now


def _seconds(timeout: float) -> float:
    if not options.is_number(timeout) or timeout == math.inf:
        raise ValueError(f"timeout={shown(timeout)} is not possible: it takes seconds, or None")
    return timeout


class Lender:
    """Finds a caller of one pool its connection. Any thread may call it."""

    def __init__(self, inspector: Inspector, waiting: Waiting) -> None:
        self.inspector = inspector
        self.waiting = waiting
        self.queue = inspector.queue
        self.settings = inspector.settings
        self.runner = inspector.runner

    def acquire(self, timeout: float | None) -> Ready:
        """Queue for a connection, since none is idle. Arguments and errors are those of getconn."""
        started = monotonic()
        deadline = started + (self.settings.timeout if timeout is None else _seconds(timeout))
        if (limit := until()) < deadline:
            deadline = limit
        held = self.waiting.wait_for_connection(started, deadline)
        conn, entry = held
        now = monotonic()
        if self.runner.threads and (now < entry.good_until or self._quiet(entry, now)):
            entry.count_wait(now - started)  # the ordinary case: it has just come back
            return conn, entry, now
        return self._fit(held, started, deadline, queued=True)

    def look_again(self, held: Held, now: float, timeout: float | None) -> Ready:
        """Return this idle connection, which is ours alone, if it is good; else get another one."""
        if timeout is None:
            if self._quiet(held[1], now):
                return *held, now
            timeout = self.settings.timeout
        else:
            try:
                timeout = _seconds(timeout)
            except ValueError:  # looked at only now, since most calls need none
                self.queue.offer(held)
                raise
        return self._fit(held, now, min(now + timeout, until()), queued=False)

    def _quiet(self, entry: Entry, now: float) -> bool:
        """Whether a look will do, and finds nothing: what the adapters want at each hand-out."""
        return (
            self.settings.looks
            and now < entry.expires_at
            and now - entry.proved_at < self.settings.ping_after
            and sockets.look(entry.poll) == sockets.ALIVE
        )

    def _fit(self, held: Held, started: float, deadline: float, *, queued: bool) -> Ready:
        """Return this connection, or the first after it, that may be handed out."""
        now = monotonic()
        while now >= held[1].good_until and not self.inspector.is_usable(held, now, deadline):
            now = monotonic()
            if now > max(deadline, started + MIN_ASK):  # asking took all the time
                raise self.waiting.refusals.timed_out(now - started, queued=queued)
            try:
                held = self.queue.take()
            except IndexError:
                held = self.waiting.wait_for_connection(started, deadline, again=True)
                queued = True
            now = monotonic()
        if queued:
            held[1].count_wait(now - started)
        sweep = self.inspector.sweep
        if not self.runner.threads and now >= sweep.due:
            sweep.due = sweep.run(now)
        return *held, now
