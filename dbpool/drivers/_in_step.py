"""psycopg2 connections that notice when SQL has ended the transaction behind their back.

psycopg2 sends BEGIN only where it believes itself outside a transaction, and of a COMMIT or
ROLLBACK that is sent as a statement it takes no notice: what follows would be committed one by one.
So each call that sends a statement looks first. psycopg 3 goes by what the server says.
"""

from __future__ import annotations

import functools
from typing import Any

from psycopg2 import extensions

__all__ = [
    "BEGIN",
    "InStepConnection",
    "InStepCursor",
    "catch_up",
    "connection_class",
    "in_step",
    "is_behind",
]

BEGIN = extensions.STATUS_BEGIN
_connection, _cursor = extensions.connection, extensions.cursor


def is_behind(conn: Any) -> bool:
    """Return whether psycopg2 believes in a transaction that the server has ended."""
    return conn.status == BEGIN and not conn.get_transaction_status()


def catch_up(conn: Any) -> None:
    """Make psycopg2 see that there is no transaction; it has no way to without a round trip."""
    notices = conn.notices
    known = len(notices) if type(notices) is list else None
    _connection.rollback(conn)
    if known is not None:
        del notices[known:]  # "there is no transaction in progress": not of the user's doing


class _Looks:
    """What sends a statement looks first; goes before a class of cursors."""

    __slots__ = ()

    connection: Any

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As psycopg2's own."""
        conn = self.connection
        if conn.status == BEGIN and not conn.get_transaction_status():
            catch_up(conn)
        return super().execute(*args, **kwargs)  # type: ignore[misc]


def _looking(name: str) -> Any:
    @functools.wraps(getattr(_cursor, name))
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        conn = self.connection
        if conn.status == BEGIN and not conn.get_transaction_status():
            catch_up(conn)
        return getattr(super(_Looks, self), name)(*args, **kwargs)

    return method


for _name in ("executemany", "callproc", "copy_from", "copy_to", "copy_expert"):
    setattr(_Looks, _name, _looking(_name))


class InStepCursor(_Looks, extensions.cursor):
    """psycopg2's own, in step."""

    __slots__ = ()

    def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002
        """As psycopg2's own."""
        conn = self.connection
        if conn.status == BEGIN and not conn.get_transaction_status():
            catch_up(conn)
        return _execute(self, query, vars)


_execute = _cursor.execute


def _named_after(made: Any, given: Any) -> Any:
    made.__name__, made.__qualname__ = given.__name__, given.__qualname__
    made.__module__, made.__doc__ = given.__module__, given.__doc__
    return made


_named_after(InStepCursor, _cursor)


def _derived(given: Any, bases: tuple[type, ...]) -> Any:
    """Make a class for one of the user's own, and have that keep it: nothing else holds either."""
    made = given._dbpool_in_step = _named_after(type("InStep", bases, {"__slots__": ()}), given)
    return made


def in_step(factory: Any) -> Any:
    """Return a factory of cursors that look first, for one of psycopg2's, or None for its own."""
    if factory is None or factory is _cursor:
        return InStepCursor
    if not isinstance(factory, type):
        return factory
    made = factory.__dict__.get("_dbpool_in_step")
    if made is None and issubclass(factory, _Looks):
        return factory
    return made or _derived(factory, (_Looks, factory))


class InStepConnection(extensions.connection):
    """psycopg2's own, with cursors in step; a class of the user's goes before it."""

    __slots__ = ()

    def cursor(
        self,
        name: Any = None,
        cursor_factory: Any = None,
        withhold: Any = False,
        scrollable: Any = None,
    ) -> Any:
        """As psycopg2's own."""
        factory = cursor_factory or self.cursor_factory
        if cursor_factory is not None:
            watch = getattr(self.cursor_factory, "_dbpool_watch", None)
            if watch is not None:  # of reset="auto"
                factory = watch.factory(cursor_factory)
                if not hasattr(
                    factory, "_dbpool_watch"
                ):  # a function: of what it makes nothing is known
                    watch.saw_raw(self)
        if name is None and not withhold and scrollable is None:  # with no more calls
            if factory is None:
                return _new_cursor(self, None, InStepCursor)
            if isinstance(factory, type) and issubclass(factory, _Looks):
                return _new_cursor(self, None, factory)
        factory = in_step(factory)
        # One with a name is of the transaction that it is made in; of what a function makes nothing
        # is known.
        if (name is not None or not isinstance(factory, type)) and is_behind(self):
            catch_up(self)
        return _new_cursor(self, name, factory, withhold, scrollable)

    def lobject(self, *args: Any, **kwargs: Any) -> Any:
        """As psycopg2's own."""
        if is_behind(self):
            catch_up(self)
        return _connection.lobject(self, *args, **kwargs)


_new_cursor: Any = _connection.cursor


def connection_class(given: Any) -> Any:
    """Return a class of connections with cursors in step, for one of the user's own.

    What that one defines comes first, its cursor() too. A function is left as it is.
    """
    if not isinstance(given, type) or getattr(given, "cursor", None) is InStepConnection.cursor:
        return given
    made = given.__dict__.get("_dbpool_in_step")
    if made is None:
        made = _derived(given, (given, InStepConnection))
    return made
