"""`reset="auto"` of the adapters: a session that its borrower has changed is cleaned, no other.

Two things tell of a change: the text of the statements, which `drivers._session` recognises, and
what the server reports by itself. The second sees also what a function did, or code that went past
the adapter, as far as it concerns settings that are reported.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._returning import clean, tidy

if TYPE_CHECKING:
    from .pool import ConnectionPool

__all__ = ["Reports", "clean_session"]

# The search path is reported from PostgreSQL 18 on.
_REPORTED = ("TimeZone", "DateStyle", "application_name", "client_encoding", "search_path")
_REPORTED_AS_BYTES = tuple(name.encode() for name in _REPORTED)


class Reports:
    """What the server reported of each session when it was configured. Any thread may ask.

    Arguments: `configure`, the user's callback for new connections, or None.
    """

    def __init__(self, configure: Callable[[Any], object] | None = None) -> None:
        self._users_configure = configure
        self._watched: tuple[Any, ...] = ()  # as the driver wants a name: text, or bytes
        # What the first one reported. As long as all others have reported the same, it is read
        # instead of theirs, which takes longer to find. Written before a connection is lent.
        self._first: dict[str, tuple[Any, ...]] = {}
        self._all_alike = True
        self._configured: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = (
            weakref.WeakKeyDictionary()
        )

    def configure(self, conn: Any) -> None:
        """Give a connection what the user wants, and remember what it is like then."""
        if self._users_configure is not None:
            self._users_configure(conn)
        self.remember(conn)

    def remember(self, conn: Any) -> None:
        """What the server reports of this session now is what it should be like."""
        self._configured[conn] = reported = self._reported(conn)
        if self._first.setdefault("", reported) != reported:  # the first wins, atomically
            self._all_alike = False

    def differ(self, conn: Any) -> bool:
        """Return whether the server reports another session than the one that was configured.

        No round trip: the server tells its clients of these changes by itself.
        """
        reported = self._reported(conn)
        if self._all_alike and self._first:
            return reported != self._first[""]
        return self._configured.get(conn) != reported

    def _reported(self, conn: Any) -> tuple[Any, ...]:
        # psycopg2 has a method for it. In psycopg 3 it is the libpq connection's, in bytes: that of
        # `info` looks for the session's encoding at each name, which takes nine times as long.
        names: tuple[Any, ...] = _REPORTED
        status = getattr(conn, "get_parameter_status", None)
        if status is None:
            names, status = _REPORTED_AS_BYTES, conn.pgconn.parameter_status
        if not self._watched:
            self._watched = tuple(name for name in names if status(name) is not None)
        return tuple(map(status, self._watched))


def clean_session(pool: ConnectionPool, conn: Any) -> bool:
    """Make the session of a lent connection as it was when it was opened.

    The connection is not in a transaction. Returns False if that did not succeed: then it is of
    no further use. Bounded by `ping_timeout`; raises nothing.
    """
    entry = pool._in_use.get(id(conn))
    return entry is not None and tidy(pool, entry, conn) and clean(pool, entry, conn, "discard")
