"""Where one connection is dead others are: none is handed out unasked until it has answered."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from . import _ending, _lease, _socket, _validation
from ._keeper import keeper
from .drivers.base import UNKNOWN

if TYPE_CHECKING:
    from ._entry import Entry
    from .pool import ConnectionPool

__all__ = ["distrust", "is_dead", "relax", "report", "suspect"]


def suspect(pool: ConnectionPool) -> None:
    """Have all idle connections looked at now, and each one pinged before it is lent next."""
    distrust(pool)
    if pool._background:
        keeper.schedule(pool, 0.0)
    else:
        _validation.sweep(pool, time.monotonic())


def distrust(pool: ConnectionPool) -> None:
    """Have each open connection pinged before it is lent next, those that are lent now included."""
    pool.doubted()
    with pool._lock:
        # What is lent comes back without credit, until all of it is back: a return reads this.
        pool._validate_after = 0.0
        pool._suspects = [(entry, entry.uses) for entry in list(pool._in_use.values())]
        for entry in list(pool._entries):
            entry.proved_at = -math.inf  # a ping is due
            entry.doubt()  # at the next hand-out


def relax(pool: ConnectionPool) -> None:
    """Trust what comes back again, once all that was lent at the last suspicion has."""
    if pool._validate_after == pool._trusted_for:
        return
    with pool._lock:
        pool._suspects = [
            (entry, uses)
            for entry, uses in pool._suspects
            if pool._in_use.get(entry.key) is entry and entry.uses == uses
        ]
        if not pool._suspects:
            pool._validate_after = pool._trusted_for


def is_dead(pool: ConnectionPool, entry: Entry, conn: Any) -> bool:
    """Return whether a connection that came back is one whose server has gone; no round trip."""
    if pool._driver.transaction_status(conn) == UNKNOWN:
        return True
    # psycopg2 calls itself open and idle after an immediate restart over a unix socket.
    return _socket.look(entry.poll) == _socket.DEAD


def report(pool: ConnectionPool, conn: Any, error: BaseException) -> bool:
    """Judge an error of the driver's; return whether it ends the session."""
    if not _lease.ends_session(pool, conn, error):
        return False
    entry = pool._in_use.get(id(conn))
    if entry is not None and entry() is conn:
        _ending.expire(entry, "broken")
    suspect(pool)
    return True
