"""The driver's own cursors, which notice what a statement leaves in the session (`reset="auto"`).

On the driver's cursors, not on Django's wrappers alone, since much code takes the connection out of
the wrapper: `connection.connection.cursor()`, psycopg 3's `connection.connection.execute()`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from dbpool.drivers._session import REMEMBERED, changes_session, remembered

if TYPE_CHECKING:
    from ._marks import Marks

__all__ = ["Noticed", "noticing"]

# Methods that one driver has and the other has not, and what they call their statement.
_STATEMENTS = {"copy": "statement", "copy_expert": "sql", "stream": "query"}


class Noticed:
    """Marks a cursor of the driver's that notices by itself all that there is to notice."""

    __slots__ = ()


def noticing(base: Any, marks: Marks) -> Any:
    """Return a subclass of a class of cursors that leaves its marks; else `base` itself.

    A factory that is no class is left alone: nothing is known of what it makes.
    """
    if not isinstance(base, type):
        return base
    plain: Any = base
    mark = marks.change
    has_names = hasattr(base, "withhold")  # psycopg 3 has a class of their own for those

    class Noticing(plain, Noticed):  # type: ignore[misc]
        __slots__ = ()  # the driver's own has no dictionary either

        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            # The ordinary case without a call in between: this runs at each statement.
            ordinary = type(query) is str and len(query) < REMEMBERED
            if remembered(query) if ordinary else changes_session(query, self):
                mark(self.connection)
            if has_names and self.name and self.withhold:
                marks.hold(self.connection, self.name)
            return plain.execute(self, query, *args, **kwargs)

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            if changes_session(query, self):
                mark(self.connection)
            return super().executemany(query, *args, **kwargs)

        def callproc(self, procname: str, *args: Any, **kwargs: Any) -> Any:
            if changes_session(f"SELECT {procname}("):
                mark(self.connection)
            return super().callproc(procname, *args, **kwargs)

    def close(self: Any) -> None:
        if self.name:
            marks.close(self.connection, self.name, functools.partial(plain.close, self))
        else:
            plain.close(self)

    if has_names:
        Noticing.close = functools.wraps(plain.close)(close)
    for name, keyword in _STATEMENTS.items():
        if hasattr(base, name):
            setattr(Noticing, name, _watched(getattr(base, name), keyword, marks))
    Noticing.__name__, Noticing.__qualname__ = base.__name__, base.__qualname__
    Noticing.__module__, Noticing.__doc__ = base.__module__, base.__doc__
    return Noticing


def _watched(method: Any, keyword: str, marks: Marks) -> Any:
    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if changes_session(args[0] if args else kwargs.get(keyword, ""), self):
            marks.change(self.connection)
        return method(self, *args, **kwargs)

    return called
