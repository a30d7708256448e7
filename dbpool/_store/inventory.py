"""Which connections a pool has, and where each of them is.

What needs the lock, and what does not:

* `entries`, `attempts`, `counters`, `phase` and the sizes are written under `lock`. It is
  re-entrant, because a signal handler or a finaliser may come in anywhere. So each statement under
  it leaves the invariants true, and loops go over copies. No I/O, no callback and no wait happens
  while it is held.
* `in_use` is worked by single operations of its dictionary, which are atomic: the ordinary acquire
  and return take no lock. So are `idle` and `waiters` of the `Handoff`.
* The three times of evidence are single writes. The latest one counts.
* What an `Entry` knows belongs to whoever has the connection.

The number of open connections is `len(entries)`: a counter beside it could drift.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .counters import Counters

if TYPE_CHECKING:
    from ..drivers.base import Driver
    from .attempt import Attempt
    from .entry import Entry, Held

__all__ = ["Inventory"]

logger = logging.getLogger("dbpool.pool")


class Inventory:
    """The connections of one pool, and those that it is making.

    Arguments: `name`, the pool's, for the log; `emptied`, called under the lock when the last open
    connection has gone.
    """

    def __init__(
        self,
        name: str,
        driver: Driver,
        min_size: int,
        max_size: int,
        emptied: Callable[[], object],
    ) -> None:
        self.name = name
        self.driver = driver
        self.min_size = min_size
        self.max_size = max_size
        self.phase = "new"  # then "open", then "closed"
        self._emptied = emptied
        self.clear()

    def clear(self) -> None:
        """Start with nothing; also in a forked child, where the old lock may be held for ever."""
        self.lock = threading.RLock()
        self.entries: set[Entry] = set()  # every open connection, wherever it is
        self.attempts: dict[int, weakref.ref[Attempt]] = {}  # connects under way, by id
        self.in_use: dict[int, Entry] = {}  # by id of the connection
        self.inherited: dict[int, Any] = {}  # connections of a parent process, kept from harm
        self.counters = Counters()
        self.owned = False  # whether anybody has ever answered for a loan
        # Evidence of the server, on the monotonic clock.
        self.proved_at = -math.inf  # of the last round trip that was seen to complete
        self.doubted_at = -math.inf  # of the last one that failed
        self.timed_out_at = -math.inf  # of the last caller that got none in time

    # -- what there is

    def entry_of(self, conn: Any) -> Entry | None:
        """Return the entry of a connection that is in use; None for any other object."""
        entry = self.in_use.get(id(conn))
        return entry if entry is not None and entry() is conn else None

    def under_way(self, *, arrived: bool = False) -> list[Attempt]:
        """Return the connects under way; one whose thread died of an exception is none.

        Those that have `arrived` are none either, but for whoever asks for those.
        """
        with self.lock:
            found = {key: ref() for key, ref in self.attempts.items()}
            for key in [key for key, attempt in found.items() if attempt is None]:
                del self.attempts[key]
            return [
                attempt
                for attempt in found.values()
                if attempt is not None and attempt.arrived is arrived
            ]

    # -- how a connection ends

    def close(self, held: Held | tuple[None, Entry], reason: str) -> None:
        """Close a connection that is ours alone, and free its slot whatever happens."""
        conn, entry = held
        try:
            if conn is not None:
                self.driver.close(conn)
        finally:
            # After the close, not before: the server never sees more than max_size.
            with self.lock:
                known = self._remove(entry, reason)
        if known:
            self.event("closed", reason)

    def _remove(self, entry: Entry, reason: str) -> bool:
        """Forget an entry and keep its counts; under the lock. False if it was gone already."""
        # In this order: interrupted at any point, what is left is found by drop_lost. A signal
        # handler may do the same to the same entry between any two steps; the removal decides who
        # counts it.
        if self.in_use.get(entry.key) is entry:
            self.in_use.pop(entry.key, None)
            entry.count_loan()
        try:
            self.entries.remove(entry)
        except KeyError:
            return False
        self.counters.fold(entry)
        self.counters.count_closed(reason)
        if not self.entries:
            self._emptied()
        return True

    def drop_lost(self) -> int:
        """Free the slots of those that were dropped without being returned; return how many."""
        with self.lock:
            dropped = [entry for entry in list(self.entries) if entry() is None]
            lost = [entry for entry in dropped if self._remove(entry, "lost")]
            first = bool(lost) and not self.counters.leaks
            self.counters.count_leaks(len(lost))
        for _ in lost:
            self.event("closed", "lost")
        if first:
            logger.warning(
                "pool %r: a connection was dropped without being returned; its slot is free again. "
                "Use `with pool.connection()`. Further ones are only counted "
                "(connections_dropped).",
                self.name,
            )
        return len(lost)

    # -- what is seen of the server

    def note_success(self) -> None:
        """Note that a round trip to the server has just been seen to complete."""
        self.proved_at = monotonic()

    def note_failure(self) -> None:
        """Note that a round trip has just failed: what was proved before counts no more."""
        self.doubted_at = monotonic()

    # -- what the log is told

    def event(self, event: str, reason: str = "") -> None:
        """Tell the log what happened to a connection; never on the hot path."""
        if logger.isEnabledFor(logging.DEBUG):
            count = len(self.entries)
            logger.debug(
                "pool %r: connection %s%s, %d open",
                self.name,
                event,
                f" ({reason})" if reason else "",
                count,
                extra={
                    "dbpool_event": event,
                    "dbpool_pool": self.name,
                    "dbpool_open": count,
                    "dbpool_reason": reason,
                },
            )
