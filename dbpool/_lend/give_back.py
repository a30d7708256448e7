"""What happens to a connection on its way back: its transaction, its settings, the reset."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from .._connect.retire import retire
from .._runtime.clock import monotonic
from .._upkeep import recheck, trust
from .._upkeep.cleaning import clean, tidy
from ..drivers.base import INERROR, INTRANS

if TYPE_CHECKING:
    from .._store.entry import Entry
    from ..pool import ConnectionPool

__all__ = ["accept"]

logger = logging.getLogger("dbpool.pool")

TOLD_EVERY = 60.0  # seconds between two warnings of a pool about returns by other threads

_STATES = {INTRANS: "an open transaction", INERROR: "a failed transaction"}


def accept(pool: ConnectionPool, entry: Entry, conn: Any, close: bool | None) -> bool:
    """Take back a connection that is not simply idle. False if it had to be closed.

    Arguments: `close`, as putconn has it; None is False, of a block that has ended in this thread.
    """
    keep = False
    try:
        if not close:
            if close is not None:
                _warn_of_stranger(pool, entry)
            state = _STATES.get(pool._driver.transaction_status(conn))
            if state:
                logger.warning(
                    "pool %r: a connection came back in %s: rolled back", pool.name, state
                )
            keep = tidy(pool, entry, conn) and clean(pool, entry, conn, pool._reset)
    finally:
        if not keep:
            reason = "returned_closed" if close else "broken"
            if entry.why == "max_use":  # cut off by the pool itself: the server may be well
                reason = entry.why
            elif trust.is_dead(pool, entry, conn):  # and so may all the others be
                recheck.suspect(pool)
            if not close:
                pool.note_failure()
                with pool._store.lock:
                    pool._store.counters.count_bad_return()
            retire(pool, (conn, entry), reason)
    return keep


def _warn_of_stranger(pool: ConnectionPool, entry: Entry) -> None:
    """Warn of a return by a thread that is not the holder while the holder lives.

    Now and then, since nobody can tell whether it was meant so: worker threads hand on what they
    have borrowed (`asyncio.to_thread`), with the next one at each return.
    """
    if entry.holder == threading.get_ident() or entry.owner is not None:
        return
    now = monotonic()
    if now - pool._stranger_told_at < TOLD_EVERY:
        return
    for thread in threading.enumerate():
        if thread.ident == entry.holder:
            pool._stranger_told_at = now
            logger.warning(
                "pool %r: thread %r returned a connection that thread %r borrowed, and would lend "
                "to somebody else if it is still using it; that is well where one hands it to the "
                "other (told once in %g s)",
                pool.name,
                threading.current_thread().name,
                thread.name,
                TOLD_EVERY,
            )
            return
