"""What happens to a connection on its way back: its transaction, its settings, the reset."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .._upkeep import trust
from ..drivers.base import INERROR, INTRANS

if TYPE_CHECKING:
    from .._store.entry import Entry
    from .._upkeep.cleaning import Cleaner
    from .._upkeep.sweep import Sweep

__all__ = ["Returns"]

logger = logging.getLogger("dbpool.pool")

TOLD_EVERY = 60.0  # seconds between two warnings of a pool about returns by other threads

_STATES = {INTRANS: "an open transaction", INERROR: "a failed transaction"}


class Returns:
    """Takes connections of one pool back that are not simply idle. Any thread may call it."""

    def __init__(self, sweep: Sweep, cleaner: Cleaner) -> None:
        self.store = sweep.store
        self._sweep = sweep
        self._growth = sweep.growth
        self._cleaner = cleaner
        self._told_at = -math.inf  # of returns by other threads

    def accept(self, entry: Entry, conn: Any, close: bool | None, reset: Any) -> bool:
        """Take back a connection that is not simply idle. False if it had to be closed.

        Arguments: `close`, as putconn has it; None is False, of a block that has ended in this
        thread; `reset`, as the option has it.
        """
        keep, cleaner = False, self._cleaner
        try:
            if not close:
                if close is not None:
                    self._warn_of_stranger(entry)
                state = _STATES.get(self.store.driver.transaction_status(conn))
                if state:
                    logger.warning(
                        "pool %r: a connection came back in %s: rolled back", self.store.name, state
                    )
                keep = cleaner.restore(entry, conn) and cleaner.reset(entry, conn, reset)
        finally:
            if not keep:
                reason = "returned_closed" if close else "broken"
                if entry.why == "max_use":  # cut off by the pool itself: the server may be well
                    reason = entry.why
                elif trust.is_dead(self.store.driver, entry, conn):  # and so may all the others be
                    self._sweep.recheck_all()
                if not close:
                    self.store.note_failure()
                    with self.store.lock:
                        self.store.counters.count_bad_return()
                self._growth.retire((conn, entry), reason)
        return keep

    def _warn_of_stranger(self, entry: Entry) -> None:
        """Warn of a return by a thread that is not the holder while the holder lives.

        Now and then, since nobody can tell whether it was meant so: worker threads hand on what
        they have borrowed (`asyncio.to_thread`), with the next one at each return.
        """
        if entry.holder == threading.get_ident() or entry.owner is not None:
            return
        now = monotonic()
        if now - self._told_at < TOLD_EVERY:
            return
        for thread in threading.enumerate():
            if thread.ident == entry.holder:
                self._told_at = now
                logger.warning(
                    "pool %r: thread %r returned a connection that thread %r borrowed, and would "
                    "lend to somebody else if it is still using it; that is well where one hands "
                    "it to the other (told once in %g s)",
                    self.store.name,
                    threading.current_thread().name,
                    thread.name,
                    TOLD_EVERY,
                )
                return
