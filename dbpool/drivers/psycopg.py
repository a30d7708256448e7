"""PostgreSQL through psycopg 3."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
from psycopg import conninfo as _conninfo
from psycopg import pq, rows
from psycopg.pq.misc import find_libpq_full_path

from .._runtime import sockets
from ..drivers import _cancel, _postgres, _sqlstate
from ._conninfo import MALFORMED
from ._libpq import LibpqDriver
from .base import ACTIVE, CLOSED, CLOSED_IN_TRANSACTION, IDLE, LOST, UNKNOWN, bare

__all__ = ["PsycopgDriver"]


class _InPool:
    """What psycopg finds where it looks whether a connection is a pool's. It holds no pool."""

    close_returns = False  # close() closes


_IN_POOL = _InPool()


class PsycopgDriver(LibpqDriver):
    """The driver over psycopg (3.2 or later).

    Besides the arguments of `psycopg.Connection.connect`, `kwargs` may hold `connection_class`.
    """

    name = "psycopg"
    OperationalError: type[Exception] = psycopg.OperationalError

    conninfo_argument = "conninfo"
    errors = (psycopg.ProgrammingError, psycopg.InterfaceError, psycopg.NotSupportedError)
    own: Mapping[str, Any] = {
        "connection_class": (
            lambda v: isinstance(v, type) and issubclass(v, psycopg.Connection),
            "psycopg.Connection, or a class made from it, and no asynchronous one",
        ),
        "autocommit": (lambda v: isinstance(v, bool), "True or False"),
        "prepare_threshold": (
            lambda v: v is None or (isinstance(v, int) and v >= 0),
            "a whole number, or None",
        ),
        "context": (lambda v: v is None or hasattr(v, "adapters"), "a context of psycopg's"),
        "row_factory": (lambda v: v is None or callable(v), "a row factory of psycopg's"),
        "cursor_factory": (lambda v: v is None or callable(v), "a class made from psycopg.Cursor"),
    }

    def _parsed(self, conninfo: str) -> dict[str, Any] | None:
        try:
            parsed: dict[str, Any] = _conninfo.conninfo_to_dict(conninfo)
        except (psycopg.ProgrammingError, ValueError):
            # Its text quotes the part that libpq could not read, which may be a password.
            return None
        return parsed

    def _try_out(self, options: Mapping[str, Any]) -> str:
        pgconn = pq.PGconn.connect(_conninfo.make_conninfo("", **options).encode())
        try:
            return str(pgconn.get_error_message())
        finally:
            pgconn.finish()

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError for an option that is none, ValueError for a part of an address."""
        given = kwargs.get("connection_class")
        if hasattr(given, "connect") and _called(given) is not _called(psycopg.Connection):
            # It may have arguments of its own.
            kwargs = {k: v for k, v in kwargs.items() if k in self.own or self._knows(str(k))}
        super().check_kwargs(kwargs)

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection; `connect_timeout` bounds it, per address, in whole seconds."""
        self.check_kwargs(kwargs)
        given = self._given(conninfo, kwargs)
        connection_class = given.pop("connection_class", psycopg.Connection)
        conn = None
        try:
            conn = connection_class.connect(**given)
        except UnicodeError:  # it carries the whole string that cannot be encoded
            pass
        except psycopg.Error as error:
            self.forget_password(error)
            raise
        if conn is None:
            raise ValueError(MALFORMED)
        return self.adopt(conn)

    def adopt(self, conn: Any) -> Any:
        """Take over a connection that somebody else has opened for a pool; return it."""
        # As psycopg_pool does. One of a pool that is dropped, or forked, is no forgotten one, and
        # the end of a `with conn:` block leaves it open.
        conn._pool = _IN_POOL
        _watch_close(bare(conn))
        return conn

    def forget_password(self, error: BaseException | None) -> None:
        """Take out of a connect's error what psycopg keeps of the connection, its password too.

        That is the PGconn, and in the errors that led to it the frames of what reads the conninfo.
        """
        known: set[int] = set()
        errors = [error]
        while errors:
            error = errors.pop()
            if error is None or id(error) in known:
                continue
            known.add(id(error))
            if getattr(error, "_pgconn", None) is not None:
                error._pgconn = None  # type: ignore[attr-defined]
            error.__traceback__ = None
            errors += (error.__cause__, error.__context__)

    def timed_out(
        self, error: BaseException, seconds: float, conninfo: str, kwargs: Mapping[str, Any]
    ) -> bool:
        """Return whether a connect has failed after `seconds` because nothing answered in time."""
        # Of several hosts the last one has the word, and another one the time.
        timeout = isinstance(error, psycopg.errors.ConnectionTimeout)
        return timeout or super().timed_out(error, seconds, conninfo, kwargs)

    def refusal(self, conninfo: str, kwargs: Mapping[str, Any]) -> str | None:
        """Connect once more for the code of a refusal; psycopg has it of no connect's."""
        path = _libpq_path()
        if path is None:
            return None
        given = self._given(conninfo, kwargs)
        own = {key: given.pop(key) for key in self.own if key in given}
        made_by = own.get("connection_class", psycopg.Connection)
        if made_by.connect.__func__ is not psycopg.Connection.connect.__func__:
            return None  # it connects in its own way, and may be refused for something else
        try:
            pgconn = pq.PGconn.connect_start(_conninfo.make_conninfo("", **given).encode())
        except (psycopg.Error, TypeError, ValueError):
            return None

        def step() -> int:
            status: int = pgconn.connect_poll()
            if status == pq.PollingStatus.FAILED:
                raise psycopg.OperationalError(pgconn.get_error_message())
            return status

        try:
            code = _sqlstate.refusal(
                path, pgconn.pgconn_ptr, lambda: pgconn.socket, step, psycopg.Error
            )
        finally:
            pgconn.finish()
        return None if code is None else _postgres.reason(code, "")

    def canceller(self, conn: Any) -> Callable[[], None] | None:
        """Return what has the server end its statement; psycopg's own keeps the GIL meanwhile."""
        path = _libpq_path()
        return None if path is None else _cancel.canceller(path, conn.pgconn.pgconn_ptr)

    def replace_close(self, conn: Any, call: Callable[[], object] | None) -> None:
        """Have the connection's own close() call this instead, None for itself again."""
        super().replace_close(conn, call)
        if call is None:
            _watch_close(bare(conn))

    def close(self, conn: Any) -> None:
        """Close it; harmless on one that is closed or broken."""
        try:
            if conn.pgconn.transaction_status == ACTIVE:
                # Whoever waits in it wakes now, and not on the descriptor's next owner.
                sockets.sever(conn.pgconn.socket)
            conn._pool = None
            conn.close()
        except psycopg.Error:
            pass

    def fileno(self, conn: Any) -> int | None:
        """Return the descriptor of its socket, None if it is closed."""
        try:
            fd: int = conn.pgconn.socket
        except psycopg.Error:
            return None
        return fd if fd >= 0 else None

    @staticmethod
    def transaction_status(conn: Any) -> int:
        """Return the status; ACTIVE also in pipeline mode, and while somebody has the lock.

        A `notifies()` or `stream()` that was left in the middle has it: the next call on the
        connection would wait for ever.
        """
        pgconn = conn.pgconn
        status: int = pgconn.transaction_status
        if pgconn.pipeline_status or (status != UNKNOWN and conn.lock.locked()):
            return ACTIVE
        return status

    def how_closed(self, conn: Any) -> str:
        """Return CLOSED, CLOSED_IN_TRANSACTION, or LOST: also where that cannot be told apart."""
        status = getattr(conn, "_dbpool_closed_in", UNKNOWN)
        if status == UNKNOWN:
            return LOST
        return CLOSED if status == IDLE else CLOSED_IN_TRANSACTION

    def in_autocommit(self, conn: Any) -> bool:
        """Return whether each statement commits by itself; also of one that is closed."""
        return bool(conn.autocommit)

    def attributes(self, conn: Any) -> Any:
        """Return the session attributes that a borrower may change; no round trip."""
        return (
            conn.autocommit,
            conn.isolation_level,
            conn.read_only,
            conn.deferrable,
            conn.row_factory,
            conn.cursor_factory,
            conn.server_cursor_factory,
            conn._prepared.prepare_threshold,
            conn._prepared.prepared_max,
            [*conn._notice_handlers],
            [*conn._notify_handlers],
            getattr(conn, "_notifies_backlog", None),  # from 3.2.4 on: what nobody has read yet
        )

    @staticmethod
    def settled(conn: Any, attributes: Any) -> bool:
        """Return whether it is idle and its attributes are those.

        Runs at each return, so it goes past the properties: each is a Python call, and they would
        double what all of this costs.
        """
        pgconn = conn.pgconn
        return (
            not pgconn.transaction_status
            and not pgconn.pipeline_status
            and conn._autocommit is attributes[0]
            and conn._isolation_level is attributes[1]
            and conn._read_only is attributes[2]
            and conn._deferrable is attributes[3]
            and conn.row_factory is attributes[4]
            and conn.cursor_factory is attributes[5]
            and conn.server_cursor_factory is attributes[6]
            and conn._prepared.prepare_threshold == attributes[7]
            and conn._prepared.prepared_max == attributes[8]
            and conn._notice_handlers == attributes[9]
            and conn._notify_handlers == attributes[10]
            and not attributes[11]
            and not conn._num_transactions  # in `with conn.transaction()`, whatever the server says
            and conn._tpc is None
            and not conn.lock.locked()
        )

    def restore(self, conn: Any, attributes: Any) -> None:
        """Put the session attributes back; psycopg sends none of them before the next BEGIN."""
        (
            conn.autocommit,
            conn.isolation_level,
            conn.read_only,
            conn.deferrable,
            conn.row_factory,
            conn.cursor_factory,
            conn.server_cursor_factory,
            conn._prepared.prepare_threshold,
            conn._prepared.prepared_max,
            conn._notice_handlers[:],
            conn._notify_handlers[:],
        ) = attributes[:11]
        if attributes[11] is not None:
            attributes[11].clear()  # what one borrower has heard is not for the next

    def commit(self, conn: Any) -> None:
        """Commit what is open, a raw BEGIN in autocommit mode included."""
        if conn.lock.locked():
            raise psycopg.OperationalError(
                "the connection is still in use, by a notifies() or stream() that has not ended "
                "or by another thread: nothing is committed. End it first"
            )
        conn.commit()

    def rollback(self, conn: Any) -> None:
        """Roll back what is open, a raw BEGIN in autocommit mode included."""
        conn.rollback()

    def discard_session(self, conn: Any) -> None:
        """Forget all session state (`DISCARD ALL`); the connection is not in a transaction."""
        self._in_autocommit(conn, "DISCARD ALL")
        conn._prepared.clear()  # psycopg looks at the answer only if it has prepared something
        backlog = getattr(conn, "_notifies_backlog", None)  # from 3.2.4 on
        if backlog is not None:
            backlog.clear()  # what it has heard goes with its LISTEN

    def ping(self, conn: Any) -> None:
        """Make one round trip that leaves no transaction behind."""
        self._in_autocommit(conn, "SELECT 1")

    def probe(self, conn: Any) -> bool:
        """Return whether the server accepts writes: it is not in recovery."""
        return not self._in_autocommit(conn, "SELECT pg_is_in_recovery()")[0][0]

    @staticmethod
    def _in_autocommit(conn: Any, sql: str) -> list[Any]:
        autocommit = conn.autocommit
        if not autocommit:
            conn.autocommit = True  # sends nothing, and spares the BEGIN and the ROLLBACK
        try:
            # The plain cursor class: the connection's own may do anything.
            with psycopg.Cursor(bare(conn), row_factory=rows.tuple_row) as cursor:
                cursor.execute(sql, prepare=False)
                return cursor.fetchall() if cursor.description else []
        finally:
            if not autocommit and not conn.closed:
                conn.autocommit = False

    def reason(self, error: BaseException) -> str:
        """Return a word of REASONS for an error of `connect`."""
        return _postgres.reason(getattr(error, "sqlstate", None), str(error))


def _called(connection_class: Any) -> Any:
    """Return the function that its `connect` is, or that a tool has put in its place."""
    connect = bare(connection_class.connect)
    return getattr(connect, "__func__", connect)


def _watch_close(conn: Any) -> None:
    """Have its close() remember in which state it found the session: libpq forgets it then."""
    ref = weakref.ref(conn)  # or the connection would hold itself, and no drop of it be seen

    def close() -> None:
        conn = ref()
        if conn is not None:
            if not conn.closed:
                conn._dbpool_closed_in = conn.pgconn.transaction_status
            type(conn).close(conn)

    conn.close = close


def _libpq_path() -> str | None:
    """Return the file through which psycopg reaches libpq: its extension module, or libpq."""
    for name in ("psycopg_binary._psycopg", "psycopg_c._psycopg"):
        if name in sys.modules:
            return sys.modules[name].__file__
    path: str | None = find_libpq_full_path()
    return path
