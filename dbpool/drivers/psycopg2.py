"""PostgreSQL through psycopg2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg2
from psycopg2 import extensions

from .. import _socket
from .._shown import shown
from . import _cancel, _postgres
from ._libpq import LibpqDriver
from ._tracking import CLOSED_IDLE, UNTRACKED, TrackedConnection, marks_of, unchanged
from .base import ACTIVE, CLOSED, CLOSED_IN_TRANSACTION, IDLE, LOST

__all__ = ["Psycopg2Driver"]

_READY = extensions.STATUS_READY
_UNSET = (None, None, None)  # isolation level, readonly and deferrable as the server has them


class Psycopg2Driver(LibpqDriver):
    """The driver over psycopg2 (2.9 or later)."""

    name = "psycopg2"
    OperationalError: type[Exception] = psycopg2.OperationalError

    # A method of psycopg2's own, without a Python frame around it.
    transaction_status: Any = staticmethod(extensions.connection.get_transaction_status)

    def _parse(self, conninfo: str) -> dict[str, str]:
        parsed: dict[str, str] | None = None
        _postgres.check_text(conninfo)
        try:
            parsed = extensions.parse_dsn(conninfo)
        except (psycopg2.ProgrammingError, ValueError):
            pass
        if parsed is None:
            # Not from within the handler: libpq's text quotes the part that it could not read,
            # which may be a password, and would stay within reach as the error's context.
            raise ValueError(_postgres.MALFORMED)
        _postgres.check_address(conninfo, parsed)
        return parsed

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError for an asynchronous connection or a second conninfo.

        And ValueError for a part of the address that is none.
        """
        for option in ("async", "async_"):
            if kwargs.get(option):
                raise TypeError(
                    f"{option}={shown(kwargs[option])} in kwargs is not possible: a pool for "
                    "threads cannot wait on psycopg2's asynchronous connections. Leave it out"
                )
        _postgres.check_kwargs(kwargs, "dsn")

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection."""
        self.check_kwargs(kwargs)
        given = self._given(conninfo, kwargs)
        factory = {
            key: given.pop(key) for key in ("connection_factory", "cursor_factory") if key in given
        }
        factory.setdefault("connection_factory", TrackedConnection)
        try:
            with _green_deadline(timeout):
                return psycopg2.connect(**given, **factory)
        except UnicodeError:  # it carries the whole string that cannot be encoded
            pass
        raise ValueError(_postgres.MALFORMED)

    def canceller(self, conn: Any) -> Callable[[], None] | None:
        """Return what has the server end its statement; psycopg2's own keeps the GIL meanwhile."""
        if conn.closed:
            return None
        return _cancel.canceller(psycopg2._psycopg.__file__, conn.pgconn_ptr)

    def close(self, conn: Any) -> None:
        """Close it; harmless on one that is closed or broken.

        close() waits for whoever is at work in the connection: that one is cut off first.
        """
        try:
            if conn.get_transaction_status() == ACTIVE:
                _socket.sever(conn.fileno())
            conn.close()
        except psycopg2.Error:
            pass

    def fileno(self, conn: Any) -> int | None:
        """Return the descriptor of its socket, None if it is closed."""
        try:
            fd: int = conn.fileno()
        except (psycopg2.Error, ValueError):
            return None
        return fd if fd >= 0 else None

    def how_closed(self, conn: Any) -> str:
        """Return CLOSED, CLOSED_IN_TRANSACTION, or LOST: also where that cannot be told apart."""
        if conn.closed != 1:  # it is 2 where a call has met with the loss
            return LOST
        marks = marks_of(conn)
        # Of a class of the user's own there is psycopg2's word for it, which is not the server's.
        idle = conn.status == _READY if marks is UNTRACKED else CLOSED_IDLE in marks
        return CLOSED if idle else CLOSED_IN_TRANSACTION

    def in_autocommit(self, conn: Any) -> bool:
        """Return whether each statement commits by itself; also of one that is closed."""
        return bool(conn.autocommit)

    def attributes(self, conn: Any) -> Any:
        """Return the session attributes that a borrower may change; no round trip.

        The last two are none: the list that is empty when nobody has left notices in it (a place
        of the user's own for them is left alone), and the marks of what has been touched.
        """
        notices = conn.notices
        return (
            conn.autocommit,
            conn.isolation_level,
            conn.readonly,
            conn.deferrable,
            conn.cursor_factory,
            notices,
            notices if type(notices) is list else (),
            marks_of(conn),
            conn.encoding,
        )

    @staticmethod
    def settled(conn: Any, attributes: Any) -> bool:
        """Return whether it is idle and its attributes are those.

        Runs at each return, so it reads no more than it must; see `_tracking`.
        """
        return (
            not conn.get_transaction_status()
            and conn.status == _READY  # not so after tpc_prepare(), whatever the server says
            and not attributes[6]
            and (not attributes[7] or unchanged(conn, attributes, attributes[7]))
        )

    def restore(self, conn: Any, attributes: Any) -> None:
        """Put the session attributes back; a round trip only for settings of autocommit mode."""
        autocommit, isolation_level, readonly, deferrable, cursor_factory, notices = attributes[:6]
        wanted = (isolation_level, readonly, deferrable)
        if autocommit and not conn.autocommit and wanted != _UNSET:
            self._set_again(conn, wanted)
        elif (conn.isolation_level, conn.readonly, conn.deferrable) != wanted:
            _set_session(conn, wanted)
        if conn.autocommit != autocommit:
            conn.autocommit = autocommit
        conn.cursor_factory = cursor_factory
        if conn.encoding != attributes[8]:
            conn.set_client_encoding(attributes[8])
        conn.notices = notices
        if type(notices) is list:
            notices.clear()  # what the server told one borrower is not for the next

    @staticmethod
    def _set_again(conn: Any, wanted: tuple[Any, ...]) -> None:
        """Go to autocommit mode, with these settings on the server.

        psycopg2 sends there only what differs from what it remembers, and remembers what it has
        taken off the server when autocommit mode ended, or what DISCARD ALL has.
        """
        conn.autocommit = False
        _set_session(conn, _UNSET)
        _set_session(conn, wanted, autocommit=True)

    # In autocommit mode psycopg2's own commit() and rollback() send nothing, whatever a BEGIN sent
    # as SQL has opened on the server.

    def commit(self, conn: Any) -> None:
        """Commit what is open, a raw BEGIN in autocommit mode included."""
        if conn.autocommit and conn.get_transaction_status() != IDLE:
            self._execute(conn, "COMMIT")
        else:
            conn.commit()

    def rollback(self, conn: Any) -> None:
        """Roll back what is open, a raw BEGIN in autocommit mode included."""
        if conn.autocommit and conn.get_transaction_status() != IDLE:
            self._execute(conn, "ROLLBACK")
        else:
            conn.rollback()

    def discard_session(self, conn: Any) -> None:
        """Forget all session state (`DISCARD ALL`); the connection is not in a transaction."""
        self._in_autocommit(conn, "DISCARD ALL")
        conn.notifies = []  # what it has heard goes with its LISTEN
        kept = (conn.isolation_level, conn.readonly, conn.deferrable)
        if conn.autocommit and kept != _UNSET:
            self._set_again(conn, kept)

    def ping(self, conn: Any) -> None:
        """Make one round trip that leaves no transaction behind."""
        self._in_autocommit(conn, "SELECT 1")

    def probe(self, conn: Any) -> bool:
        """Return whether the server accepts writes: it is not in recovery."""
        return not self._in_autocommit(conn, "SELECT pg_is_in_recovery()")[0][0]

    def _in_autocommit(self, conn: Any, sql: str) -> list[Any]:
        autocommit = conn.autocommit
        if not autocommit:
            conn.autocommit = True  # sends nothing, and spares the BEGIN and the ROLLBACK
        try:
            return self._execute(conn, sql)
        finally:
            if not autocommit and not conn.closed:
                conn.autocommit = False

    def _execute(self, conn: Any, sql: str) -> list[Any]:
        # The plain cursor class: the connection's own may do anything.
        with conn.cursor(cursor_factory=extensions.cursor) as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def reason(self, error: BaseException) -> str:
        """Return a word of REASONS for an error of `connect`."""
        return _postgres.reason(getattr(error, "pgcode", None), str(error))


def _set_session(conn: Any, values: tuple[Any, ...], **autocommit: bool) -> None:
    """Set isolation level, readonly and deferrable; None is the server's default."""
    conn.set_session(*("DEFAULT" if v is None else v for v in values), **autocommit)


def _green_deadline(seconds: float) -> AbstractContextManager[Any]:
    """Return what bounds a connect where psycopg2 waits by a callback, which knows no timeout."""
    gevent = sys.modules.get("gevent")
    if extensions.get_wait_callback() is None or gevent is None:
        return nullcontext()
    error = psycopg2.OperationalError("timeout expired while connecting")
    return gevent.Timeout(seconds, error)  # type: ignore[no-any-return]
