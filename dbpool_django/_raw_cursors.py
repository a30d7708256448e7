"""The driver's own cursors, which notice what a statement leaves in the session (`reset="auto"`).

On the driver's cursors, not on Django's wrappers alone, since much code takes the connection out of
the wrapper: `connection.connection.cursor()`, psycopg 3's `connection.connection.execute()`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from dbpool.drivers._session import REMEMBERED, changes_session, remembered

__all__ = ["is_noticing", "noticing"]

# Methods that one driver has and the other has not, and what they call their statement.
_STATEMENTS = {"copy": "statement", "copy_expert": "sql", "stream": "query"}


def noticing(base: Any, mark: Callable[[Any], object]) -> Any:
    """Return a subclass of a class of cursors that calls `mark(connection)`; else `base` itself.

    A factory that is no class is left alone: nothing is known of what it makes.
    """
    if not isinstance(base, type):
        return base
    plain: Any = base

    class Noticing(plain):  # type: ignore[misc]
        __slots__ = ()  # the driver's own has no dictionary either
        _dbpool_notices = True

        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            # The ordinary case without a call in between: this runs at each statement.
            ordinary = type(query) is str and len(query) < REMEMBERED
            if remembered(query) if ordinary else changes_session(query, self):
                mark(self.connection)
            return plain.execute(self, query, *args, **kwargs)

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            if changes_session(query, self):
                mark(self.connection)
            return super().executemany(query, *args, **kwargs)

        def callproc(self, procname: str, *args: Any, **kwargs: Any) -> Any:
            if changes_session(f"SELECT {procname}("):
                mark(self.connection)
            return super().callproc(procname, *args, **kwargs)

    for name, keyword in _STATEMENTS.items():
        if hasattr(base, name):
            setattr(Noticing, name, _watched(getattr(base, name), keyword, mark))
    Noticing.__name__, Noticing.__qualname__ = base.__name__, base.__qualname__
    Noticing.__module__, Noticing.__doc__ = base.__module__, base.__doc__
    return Noticing


def _watched(method: Any, keyword: str, mark: Callable[[Any], object]) -> Any:
    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if changes_session(args[0] if args else kwargs.get(keyword, ""), self):
            mark(self.connection)
        return method(self, *args, **kwargs)

    return called


def is_noticing(cursor: Any) -> bool:
    """Return whether a cursor of the driver's notices by itself all that there is to notice.

    Not of a named one: that its end was seen to is noticed by Django's wrapper.
    """
    return getattr(cursor, "_dbpool_notices", False) and not getattr(cursor, "name", None)
