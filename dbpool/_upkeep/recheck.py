"""Where one connection is dead others are: none is handed out unasked until it has answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .._runtime.scheduler import keeper
from ..drivers.base import LOST
from . import sweep
from .trust import distrust, ends_session

if TYPE_CHECKING:
    from ..pool import ConnectionPool

__all__ = ["report", "suspect"]


def suspect(pool: ConnectionPool) -> None:
    """Have all idle connections looked at now, and each one pinged before it is lent next."""
    distrust(pool)
    if pool._background:
        keeper.schedule(pool, 0.0)
    else:
        sweep.sweep(pool, monotonic())


def report(pool: ConnectionPool, conn: Any, error: BaseException) -> bool:
    """Judge an error of the driver's; return whether it ends the session."""
    entry = pool._store.in_use.get(id(conn))
    if entry is not None and entry() is not conn:
        entry = None
    try:
        if not ends_session(pool, conn, error):
            return False
    except Exception:
        if entry is not None:
            raise
        return False  # what is nobody's may be no connection at all
    if entry is not None:
        entry.mark_for_closing("broken")
    if pool._driver.how_closed(conn) == LOST:  # else it says nothing of the others
        suspect(pool)
    return True
