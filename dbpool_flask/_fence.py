"""What an app gets to hold: the driver's connection behind a fence that shuts at the end.

A connection that was kept past its request would by then serve another one. So the driver's object
is never handed out itself: each use goes through the lease, which knows whether it has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from dbpool.adapters import left_early, start_anew, statement_of, unforked
from dbpool.drivers.base import bare

from ._errors import released
from ._handed import fenced
from ._method import Method, is_method
from ._refused import METHODS, SETTINGS, refuse

if TYPE_CHECKING:
    from ._lease import ContextLease

__all__ = ["FencedConnection", "FencedCursor"]


class _Fenced:
    """A stand-in for an object of the driver's; everything not defined here is that object's."""

    __slots__ = ("__weakref__", "_lease")

    _lease: ContextLease

    def _target(self) -> Any:
        raise NotImplementedError

    def _result(self, result: Any) -> Any:
        """Return what to hand out for what a method of the driver's has returned."""
        return fenced(result, self._lease, self._result)

    @property
    def raw(self) -> Any:
        """The driver's own object, without the fence: for functions that insist on it.

        Do not keep it: nothing can stop it from being used after the end. Nothing sees either
        what is done to the session through it, so `reset="auto"` cleans that.
        """
        target = self._target()
        lease = self._lease
        if lease.watch is not None:
            lease.watch.saw_raw(lease.conn)
        return target

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the driver's."""
        if name in METHODS:
            refuse(name, self._lease)
        self._report(name, args, kwargs)
        try:
            return self._result(getattr(self._target(), name)(*args, **kwargs))
        except Exception as error:
            self._lease.note_error(error)
            raise

    def _report(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch, conn = self._lease.watch, self._lease.conn
        statement = statement_of(name, args, kwargs)
        if statement is not None and watch is not None and conn is not None:
            watch.saw(conn, statement)

    def __getattr__(self, name: str) -> Any:
        target = self._target()
        value = getattr(target, name)
        return Method(self, name) if is_method(value, target, name) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS:
            refuse(name, self._lease)
        setattr(self._target(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._target(), name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self._target())})

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can neither be copied nor pickled")


class FencedConnection(_Fenced):
    """The driver's connection, for as long as its request or app context lasts.

    After that each use raises ConnectionReleased, and so do cursors made through it.
    `commit` never rolls back silently: it raises TransactionAborted. `close` rolls back; the
    connection itself goes back to the pool when its context ends.
    """

    __slots__ = ()

    _cursor_type: ClassVar[type[FencedCursor]]

    def __init__(self, lease: ContextLease) -> None:
        _set_lease(self, lease)

    def _target(self) -> Any:
        return self._lease.raw()

    def _result(self, result: Any) -> Any:
        if bare(result) is bare(self._lease.conn):
            return self
        if hasattr(result, "fetchone"):  # psycopg 3 and sqlite3 execute on connections, too
            return self._cursor_type(self, self._lease, self._lease.adopt(result))
        return super()._result(result)

    def cursor(self, *args: Any, **kwargs: Any) -> FencedCursor:
        """Make a cursor of the driver's, with the driver's arguments."""
        lease = self._lease
        return self._cursor_type(self, lease, lease.adopt(lease.raw().cursor(*args, **kwargs)))

    def commit(self) -> None:
        """Commit what is open now. Raises TransactionAborted, CommitUnknown, driver's errors."""
        lease = self._lease
        lease.commit()
        lease.unit.committed((lease.name,))

    def rollback(self) -> None:
        """Roll back what is open now."""
        lease = self._lease
        lease.rollback()
        lease.unit.rolled_back((lease.name,))

    def close(self) -> None:
        """Roll back what is open now; harmless after the end."""
        unforked or start_anew()
        if self._lease.conn is not None:
            self.rollback()

    @property
    def closed(self) -> Any:
        """What the driver says; True after the end."""
        conn = self._lease.conn
        return True if conn is None else getattr(conn, "closed", False)

    def __enter__(self) -> FencedConnection:
        self._lease.raw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, or roll back after an error, as psycopg2 has it. Closes nothing."""
        if error is None:
            self.commit()
        elif not (isinstance(error, Exception) or left_early(error, traceback)):
            self._lease.torn = True
        elif self._lease.conn is not None:
            self.rollback()

    def __repr__(self) -> str:
        lease = self._lease
        state = "given back" if lease.conn is None else lease.pool.driver.name
        return f"<{type(self).__name__} of pool {lease.pool.name!r}: {state}>"


class FencedCursor(_Fenced):
    """A cursor of the driver's that ends with its connection's request or app context."""

    __slots__ = ("_connection", "_cursor")

    _connection: FencedConnection
    _cursor: Any

    def __init__(self, connection: FencedConnection, lease: ContextLease, cursor: Any) -> None:
        _set_lease(self, lease)
        _set_connection(self, connection)
        _set_cursor(self, cursor)

    def _target(self) -> Any:
        unforked or start_anew()
        if self._lease.conn is None:
            raise released()
        return self._cursor

    def _result(self, result: Any) -> Any:
        # A tracer's cursor returns what the driver's does: the driver's.
        inner = bare(result)
        if inner is bare(self._cursor):
            return self
        if inner is bare(self._lease.conn):
            return self._connection
        return super()._result(result)

    @property
    def connection(self) -> FencedConnection:
        """The connection, in its fence."""
        return self._connection

    @property
    def closed(self) -> Any:
        """What the driver says; True after the end."""
        return True if self._lease.conn is None else getattr(self._cursor, "closed", False)

    # The methods that most statements use, spelled out for speed.

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a statement, with the driver's arguments and result."""
        lease, cursor = self._lease, self._cursor
        unforked or start_anew()
        if lease.conn is None:
            raise released()
        if lease.watch is not None:
            lease.watch.saw(lease.conn, args[0] if args else kwargs.get("query", ""), cursor)
        try:
            result = cursor.execute(*args, **kwargs)
        except Exception as error:
            lease.note_error(error)
            raise
        if result is cursor:
            return self
        return None if result is None else self._result(result)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        unforked or start_anew()
        if self._lease.conn is None:
            raise released()
        return self._cursor.fetchone()

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        unforked or start_anew()
        if self._lease.conn is None:
            raise released()
        return self._cursor.fetchmany(*args, **kwargs)

    def fetchall(self) -> Any:
        """Return the remaining rows."""
        unforked or start_anew()
        if self._lease.conn is None:
            raise released()
        return self._cursor.fetchall()

    def close(self) -> None:
        """Close the cursor; harmless after the end."""
        unforked or start_anew()
        if self._lease.conn is not None:
            self._cursor.close()

    def __iter__(self) -> Iterator[Any]:
        return self._rows()

    def _rows(self) -> Iterator[Any]:
        # A generator costs a row less than a __next__ in Python. It looks before it goes back to
        # the driver, since a cursor on the server would fetch through the connection.
        lease = self._lease
        rows = iter(self._target())
        for row in rows:
            yield row
            unforked or start_anew()
            if lease.conn is None:
                raise released()

    def __next__(self) -> Any:
        return next(self._target())

    def __enter__(self) -> FencedCursor:
        if self._lease.conn is None:
            raise released()
        return self

    def __exit__(self, *exc: object) -> None:
        unforked or start_anew()
        if self._lease.conn is not None:
            self._cursor.close()

    def __repr__(self) -> str:
        state = "given back" if self._lease.conn is None else type(self._cursor).__name__
        return f"<{type(self).__name__}: {state}>"


FencedConnection._cursor_type = FencedCursor

# Their own fields, past the __setattr__ that is for the driver's objects.
_set_lease = vars(_Fenced)["_lease"].__set__
_set_connection = vars(FencedCursor)["_connection"].__set__
_set_cursor = vars(FencedCursor)["_cursor"].__set__
