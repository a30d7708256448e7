"""What is believed of connections that are open: which are dead, and which have to be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._runtime import sockets
from .._store.entry import NEVER
from ..drivers.base import LOST, UNKNOWN

if TYPE_CHECKING:
    from .._store.entry import Entry
    from .._store.inventory import Inventory
    from ..drivers.base import Driver

__all__ = ["ends_session", "is_dead", "mark_all_untrusted"]

_READ_ONLY = "25006"  # SQLSTATE


def mark_all_untrusted(store: Inventory) -> None:
    """Have each open connection pinged before it is lent next, those that are lent now included."""
    store.note_failure()
    with store.lock:
        for entry in list(store.entries):
            # In this order: a return writes the other two, if it does, and then reads this one.
            entry.proved_at = NEVER  # a ping is due
            entry.mark_untrusted()  # at the next hand-out


def is_dead(driver: Driver, entry: Entry, conn: Any) -> bool:
    """Return whether a connection that came back is one whose server has gone; no round trip."""
    if driver.transaction_status(conn) == UNKNOWN:
        return driver.how_closed(conn) == LOST  # else its borrower has closed it
    # psycopg2 calls itself open and idle after an immediate restart over a unix socket.
    return sockets.look(entry.poll) == sockets.DEAD


def ends_session(driver: Driver, role: str | None, conn: Any, error: BaseException) -> bool:
    """Return whether an error of the driver's means that the connection should be replaced.

    Arguments: `role`, the option of the pool.
    """
    state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    # A primary that has become a standby answers so for as long as the session lives; one that
    # takes writes only tells that the borrower's own transaction is read-only, and of a replica
    # nothing else is to be had.
    demoted = state == _READ_ONLY and role != "replica"
    if demoted and driver.read_only(conn) is not False:
        return True
    return driver.is_disconnect(conn, error)
