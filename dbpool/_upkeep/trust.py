"""What is believed of connections that are open: which are dead, and which have to be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._connect import role
from .._runtime import sockets
from .._store.entry import NEVER
from ..drivers.base import LOST, UNKNOWN

if TYPE_CHECKING:
    from .._store.entry import Entry
    from ..pool import ConnectionPool

__all__ = ["distrust", "ends_session", "is_dead"]

_READ_ONLY = "25006"  # SQLSTATE


def distrust(pool: ConnectionPool) -> None:
    """Have each open connection pinged before it is lent next, those that are lent now included."""
    pool.note_failure()
    with pool._store.lock:
        for entry in list(pool._store.entries):
            # In this order: a return writes the other two, if it does, and then reads this one.
            entry.proved_at = NEVER  # a ping is due
            entry.doubt()  # at the next hand-out


def is_dead(pool: ConnectionPool, entry: Entry, conn: Any) -> bool:
    """Return whether a connection that came back is one whose server has gone; no round trip."""
    if pool._driver.transaction_status(conn) == UNKNOWN:
        return pool._driver.how_closed(conn) == LOST  # else its borrower has closed it
    # psycopg2 calls itself open and idle after an immediate restart over a unix socket.
    return sockets.look(entry.poll) == sockets.DEAD


def ends_session(pool: ConnectionPool, conn: Any, error: BaseException) -> bool:
    """Return whether an error of the driver's means that the connection should be replaced."""
    state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    # A primary that has become a standby answers so for as long as the session lives; one that
    # takes writes only tells that the borrower's own transaction is read-only, and of a replica
    # nothing else is to be had.
    demoted = state == _READ_ONLY and pool.role != "replica"
    if demoted and role.is_read_only(pool, conn) is not False:
        return True
    return pool._driver.is_disconnect(conn, error)
