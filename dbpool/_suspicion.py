"""Where one connection is dead others are: none is handed out unasked until it has answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _ending, _lease, _socket, _validation
from ._clock import monotonic
from ._entry import NEVER
from ._keeper import keeper
from .drivers.base import LOST, UNKNOWN

if TYPE_CHECKING:
    from ._entry import Entry
    from .pool import ConnectionPool

__all__ = ["distrust", "is_dead", "report", "suspect"]


def suspect(pool: ConnectionPool) -> None:
    """Have all idle connections looked at now, and each one pinged before it is lent next."""
    distrust(pool)
    if pool._background:
        keeper.schedule(pool, 0.0)
    else:
        _validation.sweep(pool, monotonic())


def distrust(pool: ConnectionPool) -> None:
    """Have each open connection pinged before it is lent next, those that are lent now included."""
    pool.doubted()
    with pool._lock:
        for entry in list(pool._entries):
            # In this order: a return writes the other two, if it does, and then reads this one.
            entry.proved_at = NEVER  # a ping is due
            entry.doubt()  # at the next hand-out


def is_dead(pool: ConnectionPool, entry: Entry, conn: Any) -> bool:
    """Return whether a connection that came back is one whose server has gone; no round trip."""
    if pool._driver.transaction_status(conn) == UNKNOWN:
        return pool._driver.how_closed(conn) == LOST  # else its borrower has closed it
    # psycopg2 calls itself open and idle after an immediate restart over a unix socket.
    return _socket.look(entry.poll) == _socket.DEAD


def report(pool: ConnectionPool, conn: Any, error: BaseException) -> bool:
    """Judge an error of the driver's; return whether it ends the session."""
    entry = pool._in_use.get(id(conn))
    if entry is not None and entry() is not conn:
        entry = None
    try:
        if not _lease.ends_session(pool, conn, error):
            return False
    except Exception:
        if entry is not None:
            raise
        return False  # what is nobody's may be no connection at all
    if entry is not None:
        _ending.expire(entry, "broken")
    if pool._driver.how_closed(conn) == LOST:  # else it says nothing of the others
        suspect(pool)
    return True
