"""`max_use`: what is held for longer is cancelled, and a quarter of a second later cut off.

It works from outside, for a borrower that waits for an answer that may never come: first the
server is asked to end the statement, then the connection's socket is shut down. Its holder gets the
driver's own error either way. The connection is not lent again: a cancel may arrive late, and would
hit somebody else's statement.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Any

from .._runtime import process, sockets, threads
from .._runtime.scheduler import keeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._store.entry import Entry
    from .._store.inventory import Inventory

__all__ = ["UseLimit"]

logger = logging.getLogger("dbpool.pool")

GRACE = 0.25  # seconds that the server has for a cancel: a healthy one takes milliseconds
CANCELLING = 2  # cancels under way at once, in a process: each may hang as long as a connect
TOLD_EVERY = 10.0  # seconds between two warnings of one pool

# Threads that cancel, the keeper's alone. Not a counter: what is not alive any more holds no place,
# whatever has happened to it.
_cancelling: list[threading.Thread] = []
process.on_child(_cancelling.clear)  # where the kernel forks, Python takes them for alive


class UseLimit:
    """Watches the loans of one pool; the keeper calls it. Costs a loan nothing."""

    def __init__(self, store: Inventory, seconds: float) -> None:
        self.name = store.name
        self.seconds = seconds
        self._store = store
        self.due = 0.0  # looked at first when the keeper first runs
        # By loan: when it is cut off. The keeper's alone.
        self._cancelled: dict[tuple[Entry, Any], float] = {}
        self._told_at = -math.inf

    def run(self, now: float) -> float:
        """Cancel and cut off what is overdue; return when to come back."""
        in_use = self._store.in_use
        if self._store.phase != "open" and not in_use:
            keeper.forget(self)
            return math.inf
        loans = {(entry, entry.uses): entry.since for entry in list(in_use.values())}
        self._cancelled = {loan: at for loan, at in self._cancelled.items() if loan in loans}
        # A loan that begins after this look is not overdue before then.
        due = now + self.seconds
        for loan, since in loans.items():
            if since + self.seconds > now:
                due = min(due, since + self.seconds)
            elif loan not in self._cancelled:
                self._cancelled[loan] = now + GRACE
                self._cancel(loan, now)
                due = min(due, now + GRACE)
            elif self._cancelled[loan] > now:
                due = min(due, self._cancelled[loan])
            else:
                self._cancelled[loan] = math.inf
                self._cut(loan)
        return due

    def _cancel(self, loan: tuple[Entry, Any], now: float) -> None:
        conn = self._lent(loan)
        if conn is None:
            return
        loan[0].mark_for_closing("max_use")
        if self._lent(loan) is None:
            return  # returned meanwhile, and perhaps lent again: from now on it is not
        ask = self._store.driver.canceller(conn) if _has_place() else None
        # The borrower's alone again, before anything here can take time.
        del conn
        if now - self._told_at >= TOLD_EVERY:
            self._told_at = now
            logger.warning(
                "pool %r: a connection is held for more than max_use=%g s: its statement is "
                "cancelled, and in %g s the connection is cut off",
                self.name,
                self.seconds,
                GRACE,
            )
        if ask is not None:
            _begin(ask, f"dbpool-cancel-{self.name}")

    def _cut(self, loan: tuple[Entry, Any]) -> None:
        conn = self._lent(loan)
        if conn is not None:
            sockets.sever_of(self._store.driver, conn)

    def _lent(self, loan: tuple[Entry, Any]) -> Any:
        """Return the connection, if it is still lent as it was."""
        entry, number = loan
        if self._store.in_use.get(entry.key) is entry and entry.uses == number:
            return entry()
        return None


def _has_place() -> bool:
    _cancelling[:] = [thread for thread in _cancelling if thread.is_alive()]
    return len(_cancelling) < CANCELLING


def _begin(ask: Callable[[], None], name: str) -> None:
    thread = threads.Thread(ask, (), name)
    try:
        threads.start(thread)
    except RuntimeError:  # no more threads to be had: it will be cut off
        return
    _cancelling.append(thread)
