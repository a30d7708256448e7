"""Cursors that notice what a statement leaves in the session, or give the connection back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from django.db.backends import utils
from django.db.backends.postgresql import base

from dbpool.adapters import is_watched, start_anew, statement_of, unforked

if TYPE_CHECKING:
    from ._loan import Loan

__all__ = [
    "NoticingCursor",
    "NoticingDebugCursor",
    "ReleasingCursor",
    "ReleasingDebugCursor",
]


# Not one of `connection.execute_wrappers`: that list is the project's own, and Django's
# `execute_wrapper()` takes the last entry off it, whosever it is.
class _Noticing:
    """For `reset="auto"`: report each statement.

    Used where the driver's own cursor does not: where another backend makes it in a way of its
    own, and for server-side cursors of Django's class (psycopg 3).
    """

    cursor: Any
    db: Any

    def callproc(self, procname: str, *args: Any, **kwargs: Any) -> Any:
        self._dbpool_notice(statement_of("callproc", (procname,), {}))
        return super().callproc(procname, *args, **kwargs)  # type: ignore[misc]

    def _execute(self, sql: Any, *args: Any) -> Any:
        self._dbpool_notice(sql)
        return super()._execute(sql, *args)  # type: ignore[misc]

    def _executemany(self, sql: Any, *args: Any) -> Any:
        self._dbpool_notice(sql)
        return super()._executemany(sql, *args)  # type: ignore[misc]

    def close(self) -> None:
        self._dbpool_close()

    def _dbpool_close(self) -> None:
        unforked or start_anew()
        loan = self.db._dbpool_loan
        if loan is not None and getattr(self.cursor, "name", None):
            loan.supplier.opener.watch.closes(self.db.connection, self.cursor, self.cursor.close)
        else:
            self.cursor.close()

    def _dbpool_notice(self, sql: Any) -> None:
        unforked or start_anew()
        loan = self.db._dbpool_loan
        if loan is None or is_watched(self.cursor):
            return
        watch = loan.supplier.opener.watch
        watch.saw(self.db.connection, sql, self.cursor)
        if getattr(self.cursor, "withhold", False):
            watch.holds(self.db.connection, self.cursor.name)


def _sending(name: str) -> Any:
    """Return a method of the driver's that sends something, on a connection that is ours now."""

    def method(self: Any) -> Any:
        self._dbpool_notice("")
        try:
            return getattr(super(_Releasing, self), name)  # as Django has it for DEBUG
        except AttributeError:
            return self.__getattr__(name)

    return property(method)


class _Releasing(_Noticing):
    """For `release="transaction"`: the connection goes back when a result has been read.

    The cursor stays usable: it goes on with another connection. What it has read is its own.
    """

    _dbpool_loan: Loan | None = None  # the one that `cursor` belongs to
    _dbpool_closed = False

    copy = _sending("copy")
    copy_expert = _sending("copy_expert")
    copy_from = _sending("copy_from")
    copy_to = _sending("copy_to")
    stream = _sending("stream")

    def __init__(self, cursor: Any, db: Any) -> None:
        super().__init__(cursor, db)  # type: ignore[call-arg]
        self._dbpool_loan = db._dbpool_loan

    def _dbpool_notice(self, sql: Any) -> None:
        """Take a connection again if the last one was given back meanwhile."""
        unforked or start_anew()
        if self._dbpool_closed:
            return  # the driver's error says so
        if self._dbpool_loan is not self.db._dbpool_loan or self._dbpool_loan is None:
            self.db.ensure_connection()
            self.cursor = self.db._dbpool_cursor(None)
            self._dbpool_loan = self.db._dbpool_loan
        if self._dbpool_loan is not None:
            self._dbpool_loan.unread.add(self)
        super()._dbpool_notice(sql)

    def fetchone(self) -> Any:
        row = self._dbpool_fetch(self.cursor.fetchone)
        if row is None:
            self._dbpool_read()
        return row

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        rows = self._dbpool_fetch(self.cursor.fetchmany, *args, **kwargs)
        if not rows:
            self._dbpool_read()
        return rows

    def fetchall(self) -> Any:
        rows = self._dbpool_fetch(self.cursor.fetchall)
        self._dbpool_read()
        return rows

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()  # type: ignore[misc]
        self._dbpool_read()

    def close(self) -> None:
        self._dbpool_closed = True
        self._dbpool_fetch(self._dbpool_close)
        self._dbpool_read()

    def _dbpool_fetch(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        unforked or start_anew()
        return self.db.wrap_database_errors(method)(*args, **kwargs)

    def _dbpool_read(self) -> None:
        """Nothing is left to be read here."""
        loan = self._dbpool_loan
        if loan is not None and loan is self.db._dbpool_loan:
            loan.unread.discard(self)
            self.db._dbpool_release()


class NoticingCursor(_Noticing, utils.CursorWrapper):
    """Django's cursor wrapper."""


class NoticingDebugCursor(_Noticing, base.CursorDebugWrapper):
    """Django's cursor wrapper for DEBUG."""


class ReleasingCursor(_Releasing, utils.CursorWrapper):
    """Django's cursor wrapper."""


class ReleasingDebugCursor(_Releasing, base.CursorDebugWrapper):
    """Django's cursor wrapper for DEBUG."""
