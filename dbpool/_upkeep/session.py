"""`reset="auto"`: a session that its borrower has changed is cleaned, no other.

Two things tell of a change: the text of the statements, which `drivers._statements` judges, and
what the server reports by itself. The second sees also what a function did, or code that went past
the adapter, as far as it concerns settings that are reported. A session of which neither is sure
to tell is cleaned each time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ..drivers._statements import CHANGED, NOTHING, REMEMBERED, SPOILT, leaves, remembered
from ..drivers._watched import is_watched, watched
from ..drivers.base import IDLE, INTRANS, bare

__all__ = ["SessionWatch"]

# What the server reports of a session whenever it changes; older servers know some of it. Not
# `in_hot_standby`, which changes by itself, and not `scram_iterations`, which no query sees.
_REPORTED = (
    *("session_authorization", "is_superuser", "search_path", "default_transaction_read_only"),
    *("client_encoding", "TimeZone", "DateStyle", "IntervalStyle"),
    *("standard_conforming_strings", "application_name"),
)


class SessionWatch:
    """What is known of the sessions of a pool, without asking the server. Any thread may ask.

    Connections are known by the object at the end of `__wrapped__`, so that it does not matter
    whether the driver's own is at hand or a tracer's proxy. No lock: a connection is in one
    borrower's hands, and each operation on a dict or a set is atomic.

    Arguments: `configure`, the user's callback for new connections, or None.
    """

    def __init__(self, configure: Callable[[Any], object] | None = None) -> None:
        self._users_configure = configure
        # What statements have left, by the id of the connection: CHANGED, or SPOILT.
        self._left: dict[int, int] = {}
        # Cursors WITH HOLD, by the same: dropped unclosed, they stay open on the server.
        self._held: dict[int, set[str]] = {}
        # Connections whose statements nobody is sure to report.
        self._unseen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._cursors: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
        # psycopg2 has a method for it. In psycopg 3 it is the libpq connection's, in bytes: that of
        # `info` looks for the session's encoding at each name, which takes nine times as long.
        self._by_method = True
        self._names: tuple[Any, ...] = ()  # of `_REPORTED`, as the driver wants them
        # What the first session reported. As long as all others have reported the same, it is read
        # instead of theirs, which takes longer to find. Written before a connection is lent.
        self._first: dict[str, tuple[Any, ...]] = {}
        self._all_alike = True
        self._configured: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = (
            weakref.WeakKeyDictionary()
        )

    def attach(self, conn: Any) -> None:
        """Have the cursors of a new connection report what they execute.

        Where they turn out not to, because its class or a factory goes its own way, the session
        counts as changed whatever happens.
        """
        conn.cursor_factory = self.factory(conn.cursor_factory)
        if hasattr(conn, "server_cursor_factory"):  # psycopg 3's, for those with a name
            conn.server_cursor_factory = self.factory(conn.server_cursor_factory)
        try:
            cursor = conn.cursor()  # nothing is sent, now or when it closes
            seen = is_watched(cursor)
            cursor.close()
        except Exception:  # of a class of the project's, whose users it will tell
            seen = False
        if not seen:
            self._unseen.add(bare(conn))

    def begin(self, conn: Any) -> None:
        """Give a connection what the user wants, and watch it from then on.

        In this order: the user may give it a class of cursors.
        """
        if self._users_configure is not None:
            self._users_configure(conn)
        self.attach(conn)
        self.remember(conn)

    def configure(self, conn: Any) -> None:
        """Give a connection what the user wants, and remember what it is like then."""
        if self._users_configure is not None:
            self._users_configure(conn)
        self.remember(conn)

    def remember(self, conn: Any) -> None:
        """The session is now as it should be."""
        conn = bare(conn)
        self._configured[conn] = reported = self._reports(conn)
        if self._first.setdefault("", reported) != reported:  # the first wins, atomically
            self._all_alike = False
        self.forget(conn)
        if conn in self._unseen:
            self.saw_raw(conn)

    def saw(self, conn: Any, sql: Any, cursor: Any = None) -> None:
        """A statement is about to be sent, as the driver takes it."""
        # The ordinary case without a call in between: this runs at each statement.
        ordinary = type(sql) is str and len(sql) < REMEMBERED
        left = remembered(sql) if ordinary else leaves(sql, conn if cursor is None else cursor)
        if left:
            key = id(bare(conn))
            self._left[key] = max(left, self._left.get(key, NOTHING))

    def saw_raw(self, conn: Any) -> None:
        """The session is in the hands of code whose statements nobody sees."""
        self._left.setdefault(id(bare(conn)), CHANGED)

    def holds(self, conn: Any, name: str) -> None:
        """A cursor WITH HOLD is being opened."""
        self._held.setdefault(id(bare(conn)), set()).add(name)

    def closes(self, conn: Any, cursor: Any, close: Callable[[], object]) -> None:
        """Call what closes a cursor with a name, maybe one of those; raises what that raises.

        In a failed transaction the drivers send nothing, and the server's cursor stays open.
        """
        sends = conn.info.transaction_status in (IDLE, INTRANS)
        close()
        cursor = bare(cursor)
        if getattr(cursor, "_described", False):
            # Executed again, psycopg 3's would send another CLOSE, into whosever session this is
            # then, before it looks whether it is closed.
            cursor._described = False
        key = id(bare(conn))
        held = self._held.get(key)
        if sends and held is not None:
            held.discard(cursor.name)
            if not held:
                del self._held[key]

    def marked(self, conn: Any) -> bool:
        """Return whether a statement has changed the session, or a cursor WITH HOLD is open."""
        key = id(bare(conn))
        return key in self._left or key in self._held

    def spoilt(self, conn: Any) -> bool:
        """Return whether a statement has left what only the end of the session undoes."""
        return self._left.get(id(bare(conn))) == SPOILT

    def changed(self, conn: Any) -> bool:
        """Return whether the session is not as it should be, as far as that can be seen.

        No round trip: the server tells its clients of what it reports by itself.
        """
        # Without a call where there is no proxy: this runs at each return.
        if getattr(conn, "__wrapped__", None) is not None:
            conn = bare(conn)
        key = id(conn)
        if key in self._left or key in self._held:
            return True
        status = conn.get_parameter_status if self._by_method else conn.pgconn.parameter_status
        reported = tuple(map(status, self._names))
        if self._all_alike and self._first:
            return reported != self._first[""]
        return self._configured.get(conn) != reported

    def forget(self, conn: Any) -> None:
        """What statements have left is gone, or of no interest any more."""
        key = id(bare(conn))
        self._left.pop(key, None)
        self._held.pop(key, None)

    def factory(self, given: Any) -> Any:
        """Return a class of cursors that reports; a factory that is no class as it is.

        One for each of the project's classes, as long as a connection has it.
        """
        if getattr(given, "_dbpool_watch", None) is self:
            return given
        known = self._cursors.get(given)
        if known is None:
            known = watched(given, self)
            if known is not given:
                known = self._cursors.setdefault(given, known)
        return known

    def _reports(self, conn: Any) -> tuple[Any, ...]:
        self._by_method = hasattr(conn, "get_parameter_status")
        status = conn.get_parameter_status if self._by_method else conn.pgconn.parameter_status
        if not self._names:
            names = _REPORTED if self._by_method else tuple(name.encode() for name in _REPORTED)
            self._names = tuple(name for name in names if status(name) is not None)
        return tuple(map(status, self._names))
