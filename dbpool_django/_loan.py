"""One loan of a connection to a wrapper: what was made of it, and how it goes back."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from dbpool import ConnectionPool, adapters
from dbpool.drivers.base import IDLE

from ._opener import Opener

__all__ = ["Loan", "Supplier"]

logger = logging.getLogger("dbpool.django")


class Supplier:
    """A pool as the adapter sees it: with the options that are the adapter's own."""

    __slots__ = ("is_plain", "isolation_level", "opener", "pool", "releases", "resets")

    def __init__(
        self,
        pool: ConnectionPool,
        opener: Opener,
        *,
        resets: bool = False,
        releases: bool = False,
        is_plain: bool = True,
        isolation_level: Any = None,
    ) -> None:
        self.pool = pool
        self.opener = opener
        self.resets = resets  # reset="auto"
        self.releases = releases  # release="transaction"
        self.is_plain = is_plain  # the wrapper's class adds nothing to how a connection is taken
        self.isolation_level = isolation_level


class Loan(adapters.Loan):
    """A connection in a wrapper's hands; it does not hold the connection itself.

    Whoever drops the wrapper's `connection` without `close()` thereby gives the slot back.
    """

    __slots__ = ("_unread", "supplier")

    def __init__(self, supplier: Supplier) -> None:
        super().__init__(supplier.pool, supplier.opener.watch)
        self.supplier = supplier
        self._unread: weakref.WeakSet[Any] | None = None

    @property
    def unread(self) -> weakref.WeakSet[Any]:
        """Cursors whose result somebody may still read; for `release="transaction"` only."""
        if self._unread is None:
            self._unread = weakref.WeakSet()
        return self._unread

    def has_changed(self, conn: Any) -> bool:
        """Return whether the session is seen, without a round trip, to have been changed."""
        return self.watch is not None and self.watch.changed(conn)

    def is_pinned(self, conn: Any) -> bool:
        """Whether the borrower needs this very session, or has not read all of a result."""
        return (
            bool(self._unread)
            or (self.watch is not None and self.watch.marked(conn))
            or any(getattr(cursor, "name", None) for cursor in self.open_cursors())
        )

    def note_error(self, conn: Any, error: BaseException) -> bool:
        """Judge an error of the driver's while it can be judged; most leave the session intact."""
        return super().note_error(adapters.lent(self.pool, conn), error)

    def end(self, conn: Any, doubtful: bool, *, always_open: bool = False) -> None:
        """Return the connection to its pool as good as it was, or have it closed.

        Arguments: `doubtful`, whether there were errors whose effect may show only now;
        `always_open`, whether every query opens a transaction, so that an open one is no news.
        Raises ValueError if the pool has not lent it (any more).
        """
        supplier, pool = self.supplier, self.pool
        if not supplier.is_plain:
            conn = adapters.lent(pool, conn)
        for ref in self.cursors or ():
            # Where connections go back between statements, cursors see to it themselves.
            if ref() is not None and not (supplier.releases and not self.is_pinned(conn)):
                self._close_cursors(conn)
                break
        close = self.broken or (doubtful and supplier.opener.is_disconnect(conn, Exception()))
        if always_open and not close:
            close = self.roll_back(conn)
        watch = self.watch
        if supplier.resets and not close and watch is not None:
            if conn.closed:
                close = True
            elif watch.changed(conn):
                if supplier.opener.transaction_status(conn) != IDLE:
                    logger.warning(
                        "pool %r: a connection came back in an open transaction: rolled back",
                        pool.name,
                    )
                close = not self.clean(conn)
        elif supplier.releases and watch is not None:
            watch.forget(conn)  # it is for a pin that statements were reported
        pool.putconn(conn, close)

    def _close_cursors(self, conn: Any) -> None:
        # One that is still in somebody's hands would reach into the next borrower's session.
        for cursor in self.open_cursors():
            guard = self.bounded(conn)  # the server may be frozen
            try:
                if getattr(cursor, "name", None):
                    with guard:
                        self._close_named(conn, cursor)
                else:
                    cursor.close()  # sends nothing
            except Exception:  # the server's cursor, in a session that has ended
                self.broken = self.broken or guard.fired

    def _close_named(self, conn: Any, cursor: Any) -> None:
        watch = self.watch
        if watch is None:
            cursor.close()
        else:
            watch.closes(conn, cursor, cursor.close)
