"""PostgreSQL through psycopg2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import methodcaller
from typing import Any

import psycopg2
from psycopg2 import extensions

from .._runtime import sockets
from ..drivers import _cancel, _postgres, _sqlstate
from ._conninfo import MALFORMED
from ._green import Making
from ._in_step import InStepCursor, catch_up, connection_class, is_behind
from ._libpq import LibpqDriver
from ._tracking import CLOSED_IDLE, UNTRACKED, TrackedConnection, marks_of, replace_close, unchanged
from .base import ACTIVE, CLOSED, CLOSED_IN_TRANSACTION, IDLE, LOST, bare

__all__ = ["Psycopg2Driver"]

# Where classes of connections come from that change nothing about how one connects.
_KNOWN_FACTORIES = (TrackedConnection.__module__, "psycopg2.extras")
_READY = extensions.STATUS_READY
_UNSET = (None, None, None)  # isolation level, readonly and deferrable as the server has them


def _callable_or_none(value: Any) -> bool:
    return value is None or callable(value)


class Psycopg2Driver(LibpqDriver):
    """The driver over psycopg2 (2.9 or later)."""

    name = "psycopg2"
    OperationalError: type[Exception] = psycopg2.OperationalError

    early = 0.02 if extensions.libpq_version() >= 170_000 else 1.0

    # By name, since the connection may be a tracer's proxy; and without a Python frame around it.
    transaction_status: Any = staticmethod(methodcaller("get_transaction_status"))

    conninfo_argument = "dsn"
    alias = "database"
    errors = (psycopg2.ProgrammingError, psycopg2.InterfaceError, psycopg2.NotSupportedError)
    own: Mapping[str, Any] = {
        "autocommit": (lambda v: isinstance(v, bool), "True or False"),
        "connection_factory": (_callable_or_none, "a class made from psycopg2's connection"),
        "cursor_factory": (_callable_or_none, "a class made from psycopg2's cursor"),
        **dict.fromkeys(
            ("async", "async_"),
            (
                lambda v: not v,
                "False: a pool for threads cannot wait for psycopg2's asynchronous connections",
            ),
        ),
    }

    def _parsed(self, conninfo: str) -> dict[str, Any] | None:
        try:
            parsed: dict[str, Any] = extensions.parse_dsn(conninfo)
        except (psycopg2.ProgrammingError, ValueError):
            # Its text quotes the part that libpq could not read, which may be a password.
            return None
        return parsed

    def _try_out(self, options: Mapping[str, Any]) -> str:
        try:
            extensions.connection(extensions.make_dsn(**options)).close()
        except psycopg2.Error as error:
            return str(error)
        return ""

    def with_defaults(
        self, conninfo: str, kwargs: Mapping[str, Any], timeout: float, name: str
    ) -> Mapping[str, Any]:
        """Return `kwargs` with what the user has not set, and what makes the connection."""
        seconds = self.connect_seconds(conninfo, kwargs, timeout)
        factory = self._factory(kwargs.get("connection_factory"), seconds)
        ours = super().with_defaults(conninfo, kwargs, timeout, name)
        return {**ours, "connection_factory": factory}

    def _factory(self, given: Any, seconds: float) -> Any:
        """Return what makes a connection of that class, in step and within a deadline."""
        if given is None:
            given = TrackedConnection
        elif isinstance(given, Making) or not callable(given):
            return given
        return Making(self, connection_class(given), seconds)

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection."""
        self.check_kwargs(kwargs)
        given = self._given(conninfo, kwargs)
        own = {key: given.pop(key) for key in self.own if key in given}
        autocommit = own.pop("autocommit", False)
        own["connection_factory"] = self._factory(own.get("connection_factory"), timeout)
        try:
            conn = psycopg2.connect(**given, **own)
        except UnicodeError:  # it carries the whole string that cannot be encoded
            conn = None
        if conn is None:
            raise ValueError(MALFORMED)
        if autocommit:
            conn.autocommit = True  # before any statement: it costs no round trip
        return conn

    def refusal(self, conninfo: str, kwargs: Mapping[str, Any]) -> str | None:
        """Connect once more for the code of a refusal; psycopg2 has it of no connect's."""
        given = self._given(conninfo, kwargs)
        own = {key: given.pop(key) for key in self.own if key in given}
        factory = own.get("connection_factory", TrackedConnection)
        begins = getattr(getattr(factory, "makes", factory), "__init__", None)
        plain = begins is extensions.connection.__init__
        if not plain and getattr(begins, "__module__", None) not in _KNOWN_FACTORIES:
            return None  # it connects in its own way, and may be refused for something else
        code = None
        try:
            conn = extensions.connection(extensions.make_dsn(**given), async_=1)
            try:
                code = _sqlstate.refusal(
                    psycopg2._psycopg.__file__,
                    conn.pgconn_ptr,
                    conn.fileno,
                    conn.poll,
                    psycopg2.OperationalError,
                )
            finally:
                conn.close()
        except (psycopg2.Error, TypeError, ValueError):
            pass
        return None if code is None else _postgres.reason(code, "")

    def canceller(self, conn: Any) -> Callable[[], None] | None:
        """Return what has the server end its statement; psycopg2's own keeps the GIL meanwhile."""
        if conn.closed:
            return None
        return _cancel.canceller(psycopg2._psycopg.__file__, conn.pgconn_ptr)

    def replace_close(self, conn: Any, call: Callable[[], object] | None) -> None:
        """Have the connection's own close() call this instead, None for itself again."""
        if not replace_close(bare(conn), call):
            super().replace_close(conn, call)

    def close(self, conn: Any) -> None:
        """Close it; harmless on one that is closed or broken.

        close() waits for whoever is at work in the connection: that one is cut off first.
        """
        try:
            if conn.get_transaction_status() == ACTIVE:
                sockets.sever(conn.fileno())
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

        Three are none: the marks of what has been touched, and the lists that are empty when
        nobody has left notices or notifications in them. A place of the user's own for these is
        left alone.
        """
        notices, notifies = conn.notices, conn.notifies
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
            notifies,
            notifies if type(notifies) is list else (),
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
            and not attributes[10]
            and (not attributes[7] or unchanged(conn, attributes, attributes[7]))
        )

    def restore(self, conn: Any, attributes: Any) -> None:
        """Put the session attributes back; a round trip only for settings of autocommit mode.

        And where SQL has ended the transaction past psycopg2.
        """
        if is_behind(conn):
            catch_up(conn)
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
        conn.notices, conn.notifies = notices, attributes[9]
        for told in (notices, attributes[9]):
            if type(told) is list:
                told.clear()  # what the server told one borrower is not for the next

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
        heard = conn.notifies  # which goes with its LISTEN
        if type(heard) is list:
            heard.clear()
        else:
            conn.notifies = []
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
        # The plain cursor class, and past the connection's method: both may do anything.
        with InStepCursor(bare(conn)) as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def reason(self, error: BaseException) -> str:
        """Return a word of REASONS for an error of `connect`."""
        return _postgres.reason(getattr(error, "pgcode", None), str(error))


def _set_session(conn: Any, values: tuple[Any, ...], **autocommit: bool) -> None:
    """Set isolation level, readonly and deferrable; None is the server's default."""
    conn.set_session(*("DEFAULT" if v is None else v for v in values), **autocommit)
