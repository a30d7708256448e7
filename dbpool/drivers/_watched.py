"""Cursors of the drivers that report each statement, for `reset="auto"` on PostgreSQL.

The driver's own cursors, not a framework's wrappers alone: much code takes the connection out of
its wrapper, and psycopg 3's connections execute by themselves.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .._runtime.process import start_anew, unforked
from ._bare import bare
from ._statements import REMEMBERED, remembered

__all__ = ["Watch", "Watched", "is_watched", "statement_of", "watched"]

# The drivers' methods that take a statement, and what they call it.
_STATEMENTS = {
    "execute": "query",
    "executemany": "query",
    "copy": "statement",
    "copy_expert": "sql",
    "stream": "query",
}


class Watch(Protocol):
    """What is told of statements: the pool's `SessionWatch`."""

    def saw(self, conn: Any, sql: Any, cursor: Any = None) -> None:
        """A statement is about to be sent."""

    def holds(self, conn: Any, name: str) -> None:
        """A cursor WITH HOLD is being opened."""

    def closes(self, conn: Any, cursor: Any, close: Callable[[], object]) -> None:
        """Call what closes a cursor with a name."""

    def saw_raw(self, conn: Any) -> None:
        """The session is in the hands of code whose statements nobody sees."""

    def factory(self, given: Any) -> Any:
        """Return a class of cursors that reports, for one that a borrower brings along."""


class Watched:
    """Marks a class of cursors that report by themselves all that there is to report."""

    __slots__ = ()


def is_watched(cursor: Any) -> bool:
    """Return whether a cursor, or what a proxy stands for, reports by itself."""
    return isinstance(bare(cursor), Watched)


def statement_of(method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the statement that a method of a cursor, or connection, is called with.

    None if that method takes none.
    """
    if method == "callproc":
        return f"SELECT {args[0] if args else kwargs.get('procname', '')}("
    keyword = _STATEMENTS.get(method)
    if keyword is None:
        return None
    return args[0] if args else kwargs.get(keyword, "")


def watched(base: Any, watch: Watch) -> Any:
    """Return a subclass of a class of cursors that reports to `watch`.

    None is psycopg2's own class. A factory that is no class is returned as it is: nothing is known
    of what it makes.
    """
    extensions = sys.modules.get("psycopg2.extensions")
    if base is None and extensions is not None:
        base = extensions.cursor
    if not issubclass(type(base), type):  # a class that a proxy stands for is none
        return base
    plain: Any = base
    if extensions is not None and issubclass(base, extensions.cursor):
        from ._in_step import in_step

        plain = in_step(base)  # its connection would do that around ours: one call more
    execute = plain.execute
    saw = watch.saw
    has_names = hasattr(base, "withhold")  # psycopg 3 has a class of their own for those

    class WatchedCursor(plain, Watched):  # type: ignore[misc]
        __slots__ = ()  # the driver's own has no dictionary either
        _dbpool_watch = watch  # for cursors of other classes, on the same connection

        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            unforked or start_anew()
            # The ordinary case without a call in between: this runs at each statement.
            if type(query) is not str or len(query) >= REMEMBERED or remembered(query):
                saw(self.connection, query, self)
            if has_names and self.name and self.withhold:
                watch.holds(self.connection, self.name)
            return execute(self, query, *args, **kwargs)

    def close(self: Any) -> None:
        unforked or start_anew()
        if self.name:
            watch.closes(self.connection, self, functools.partial(plain.close, self))
        else:
            plain.close(self)

    if base is getattr(extensions, "cursor", None):
        setattr(WatchedCursor, "execute", _psycopg2s_execute(extensions, watch))  # noqa: B010
    if has_names:
        WatchedCursor.close = functools.wraps(plain.close)(close)
    for name in {"callproc", *_STATEMENTS} - {"execute"}:
        if hasattr(base, name):
            setattr(WatchedCursor, name, _reporting(getattr(plain, name), name, watch))
    WatchedCursor.__name__, WatchedCursor.__qualname__ = base.__name__, base.__qualname__
    WatchedCursor.__module__, WatchedCursor.__doc__ = base.__module__, base.__doc__
    return WatchedCursor


def _reporting(method: Any, name: str, watch: Watch) -> Any:
    @functools.wraps(method)
    def reporting(self: Any, *args: Any, **kwargs: Any) -> Any:
        unforked or start_anew()
        watch.saw(self.connection, statement_of(name, args, kwargs), self)
        return method(self, *args, **kwargs)

    return reporting


def _psycopg2s_execute(extensions: Any, watch: Watch) -> Any:
    """Return the method for psycopg2's own cursors: at each statement one call, and not three."""
    from ._in_step import BEGIN, catch_up

    own, saw = extensions.cursor.execute, watch.saw

    @functools.wraps(own)
    def execute(self: Any, query: Any, vars: Any = None) -> Any:  # noqa: A002
        unforked or start_anew()
        conn = self.connection
        if conn.status == BEGIN and not conn.get_transaction_status():
            catch_up(conn)
        if type(query) is not str or len(query) >= REMEMBERED or remembered(query):
            saw(conn, query, self)
        if self.name and self.withhold:
            watch.holds(conn, self.name)
        return own(self, query, vars)

    return execute
