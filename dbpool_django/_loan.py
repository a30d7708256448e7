"""One loan of a connection to a wrapper: what was made of it, and how it goes back."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from dbpool import ConnectionPool
from dbpool._lend.loan import clean_session, limit, roll_back
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


class Loan:
    """A connection in a wrapper's hands; it does not hold the connection itself.

    Whoever drops the wrapper's `connection` without `close()` thereby gives the slot back.
    """

    __slots__ = ("_broken", "_unread", "cursors", "supplier")

    def __init__(self, supplier: Supplier) -> None:
        self.supplier = supplier
        self.cursors: list[weakref.ref[Any]] | None = None  # so that they end with the loan
        self._broken = False
        self._unread: weakref.WeakSet[Any] | None = None

    @property
    def unread(self) -> weakref.WeakSet[Any]:
        """Cursors whose result somebody may still read; for `release="transaction"` only."""
        if self._unread is None:
            self._unread = weakref.WeakSet()
        return self._unread

    def has_changed(self, conn: Any) -> bool:
        """Return whether the session is seen, without a round trip, to have been changed."""
        watch = self.supplier.opener.watch
        return watch is not None and watch.changed(conn)

    def is_pinned(self, conn: Any) -> bool:
        """Whether the borrower needs this very session, or has not read all of a result."""
        watch = self.supplier.opener.watch
        return (
            bool(self._unread)
            or (watch is not None and watch.marked(conn))
            or any(getattr(cursor, "name", None) for cursor in self.open_cursors())
        )

    def add_cursor(self, cursor: Any) -> None:
        """Know a cursor, so that it ends with the loan. The wrapper itself adds the first."""
        cursors = self.cursors
        assert cursors is not None
        if len(cursors) >= 100:
            cursors[:] = [ref for ref in cursors if ref() is not None]
        cursors.append(weakref.ref(cursor))

    def open_cursors(self) -> list[Any]:
        """Return the cursors that somebody still holds and has not closed."""
        found = [ref() for ref in self.cursors or ()]
        return [
            cursor
            for cursor in found
            if cursor is not None and not getattr(cursor, "closed", False)
        ]

    def note_error(self, conn: Any, error: BaseException) -> None:
        """Judge an error of the driver's while it can be judged; most leave the session intact."""
        pool = self.supplier.pool
        if pool.report(_lent(pool, conn), error):
            self._broken = True

    def give_back(self, conn: Any, doubtful: bool, *, always_open: bool = False) -> None:
        """Return the connection to its pool as good as it was, or have it closed.

        Arguments: `doubtful`, whether there were errors whose effect may show only now;
        `always_open`, whether every query opens a transaction, so that an open one is no news.
        Raises ValueError if the pool has not lent it (any more).
        """
        supplier = self.supplier
        pool = supplier.pool
        if not supplier.is_plain:
            conn = _lent(pool, conn)
        for ref in self.cursors or ():
            # Where connections go back between statements, cursors see to it themselves.
            if ref() is not None and not (supplier.releases and not self.is_pinned(conn)):
                self._close_cursors(conn)
                break
        close = self._broken or (doubtful and supplier.opener.is_disconnect(conn, Exception()))
        if always_open and not close:
            close = roll_back(pool, conn)
        watch = supplier.opener.watch
        if supplier.resets and not close and watch is not None:
            if conn.closed:
                close = True
            elif watch.changed(conn):
                if supplier.opener.transaction_status(conn) != IDLE:
                    logger.warning(
                        "pool %r: a connection came back in an open transaction: rolled back",
                        pool.name,
                    )
                close = not clean_session(pool, conn, watch)
        elif supplier.releases and watch is not None:
            watch.forget(conn)  # it is for a pin that statements were reported
        pool.putconn(conn, close)

    def _close_cursors(self, conn: Any) -> None:
        # One that is still in somebody's hands would reach into the next borrower's session.
        pool = self.supplier.pool
        for cursor in self.open_cursors():
            guard = limit(pool, conn)  # the server may be frozen
            try:
                if getattr(cursor, "name", None):
                    with guard:
                        self._close_named(conn, cursor)
                else:
                    cursor.close()  # sends nothing
            except Exception:  # the server's cursor, in a session that has ended
                self._broken = self._broken or guard.fired

    def _close_named(self, conn: Any, cursor: Any) -> None:
        watch = self.supplier.opener.watch
        if watch is None:
            cursor.close()
        else:
            watch.closes(conn, cursor, cursor.close)


def _lent(pool: ConnectionPool, conn: Any) -> Any:
    """Return the connection that the pool has lent, where a project's class has put a proxy on it.

    Its `get_new_connection` may wrap whatever Django's returns. `conn` itself if none is known.
    """
    inner = conn
    while inner is not None:
        entry = pool._store.in_use.get(id(inner))
        if entry is not None and entry() is inner:
            return inner
        inner = getattr(inner, "__wrapped__", None)
    return conn
