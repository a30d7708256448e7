"""Changing the sizes of a pool, closing it, and starting anew in a forked child."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from .. import options
from .._connect.outage import DOWN
from .._runtime import forks
from .._runtime.clock import monotonic
from .._runtime.scheduler import keeper
from .._store.waiter import CLOSED
from ..errors import PoolClosed, PoolError, for_driver

if TYPE_CHECKING:
    from .._store.inventory import Inventory
    from .usable import Inspector

__all__ = ["Attached", "Lifecycle", "closed_error"]

STRAGGLERS = 0.1  # seconds in which a return that is under way has come to its end


class Attached(Protocol):
    """What is closed with the pool: the prober of its health check."""

    def close(self) -> None:
        """Close what it has open; it may be used again."""


def closed_error(store: Inventory) -> PoolError:
    """Return the error of a caller whose pool is not open."""
    new = store.phase == "new"
    return for_driver(PoolClosed, store.driver.OperationalError)(
        f"pool {store.name!r} is not open yet: call open(), or use it in a with statement"
        if new
        else f"pool {store.name!r} is closed, and a closed pool cannot be opened again: make "
        "a new one"
    )


class Lifecycle:
    """Opens nothing, but changes the sizes of one pool, renews, pauses and closes it."""

    def __init__(self, inspector: Inspector) -> None:
        self.store, self.queue = inspector.store, inspector.queue
        self.outage = inspector.outage
        self.attached: list[Attached] = []
        self._inspector = inspector
        self._sweep = inspector.sweep
        self._growth = inspector.growth

    def close(self, timeout: float) -> None:
        """Close for good: first the waiters are told, then what is idle closes."""
        timeout = options.seconds("timeout", timeout)
        with self.store.lock:
            self.store.phase = "closed"
            for entry in list(self.store.entries):
                entry.mark_for_closing("closed")
            if CLOSED not in self.queue.waiters:
                self.queue.waiters.append(CLOSED)
        self.queue.answer_all(CLOSED)
        self._growth.find_lost()
        self.queue.match()  # CLOSED stands in the queue: whatever is offered to it is closed
        until = monotonic() + timeout
        me = threading.get_ident()  # a callback that closes the pool is part of a connect itself
        while any(
            each.made_by != me and each.overdue_at > monotonic() for each in self.store.under_way()
        ):
            if monotonic() >= until:
                break
            time.sleep(0.005)
        keeper.forget(self._sweep)
        for attached in list(self.attached):
            attached.close()
        self.store.driver.pool_closed()

    def at_exit(self) -> None:
        """Close what is idle: the process ends. Nobody is told, and nothing is waited for.

        Waiters are not told: their daemon threads would print a traceback while the interpreter
        exits. And an exit handler that was registered earlier may have use for the pool yet.
        """
        while True:
            try:
                held = self.queue.idle.pop()
            except IndexError:
                break
            self.store.close(held, "closed")
        for attached in list(self.attached):
            attached.close()

    def drain(self) -> None:
        """Renew everything that is open."""
        with self.store.lock:
            for entry in list(self.store.entries):
                entry.mark_for_closing("drained")
            for (
                attempt
            ) in self.store.under_way():  # begun before, perhaps with yesterday's password
                attempt.unwanted = "drained"
        self._end_idle()
        self._growth.grow()

    def resize(self, min_size: int, max_size: int) -> None:
        """Change the sizes; idle ones beyond go at once, then lent ones as they come back."""
        with self.store.lock:
            # The longest idle first, those that are lent last.
            order = sorted(
                self.store.entries, key=lambda entry: (entry.key in self.store.in_use, entry.since)
            )
            for entry in order[: max(0, len(order) - max_size)]:
                entry.mark_for_closing("excess")
            self.store.min_size, self.store.max_size = min_size, max_size
            if self.outage.name == DOWN and len(self.store.entries) >= max_size:
                self.outage.resume()  # it has all that it may have: no connect would tell it
        self._end_idle()
        self._growth.grow()
        self._growth.finish_recovery()

    def _end_idle(self) -> None:
        """Close what is idle and has to go: now, and soon again.

        A return that was under way may lay its connection down after the sweep has passed. Nobody
        would be lent it, but it would stay open until the next look.
        """
        now = monotonic()
        self._sweep.sweep(now)
        if not self.store.entries:
            return
        if not self._sweep.runner.wake(now + STRAGGLERS):
            self._sweep.due = -math.inf  # the next caller that waits sees to it

    def pause(self, seconds: float) -> bool:
        """Lend nothing, and close what is open."""
        until = monotonic() + options.seconds("wait", seconds)
        with self.store.lock:
            if self.store.phase != "open":
                raise closed_error(self.store)
            self.outage.paused = True
            for entry in list(self.store.entries):
                entry.mark_for_closing("paused")
            for attempt in self.store.under_way():
                attempt.unwanted = "paused"
        for attached in list(self.attached):
            attached.close()  # its spare connection, which would keep a server from stopping
        self._end_idle()
        while True:
            self._sweep.sweep(monotonic())
            if not self.store.entries and not self.store.under_way():
                return True
            if monotonic() >= until:
                return False
            time.sleep(0.005)

    def resume(self) -> None:
        """Lend again; the server may just have started, so not all at once."""
        with self.store.lock:
            if not self.outage.paused:
                return
            self.outage.paused = False
            self.outage.resume()
        self._growth.grow()
        self._growth.finish_recovery()

    def check(self) -> None:
        """Ask the server on every idle connection now."""
        with self.store.lock:
            self.outage.try_anew(monotonic())
        for _ in range(len(self.queue.idle)):
            try:
                held = self.queue.idle.popleft()
            except IndexError:
                break
            self._inspector.ping_or_retire(held)
        self._growth.grow()

    def leave_to_parent(self) -> dict[int, Any]:
        """Cut off what is open from the sockets that the parent process works on; at a fork.

        Returns the connections, by id: those lent are still in their borrowers' hands.
        """
        inherited = dict(self.store.inherited)
        entries = list(self.store.in_use.values())
        lent = [entry.owner for entry in entries if entry.owner is not None]
        for entry in list(self.store.entries):
            conn = entry()
            if conn is not None:
                forks.abandon(self.store.driver, conn)
                inherited[id(conn)] = conn
        for _, owner in lent:
            forks.bereave(owner)
        return inherited
