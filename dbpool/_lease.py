"""`with pool.connection()`: one connection for the length of a block, committed or rolled back."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _role, _socket
from ._clock import monotonic
from ._keeper import Guard
from .drivers.base import IDLE, INERROR, INTRANS, UNKNOWN
from .errors import CommitUnknown, TransactionAborted

if TYPE_CHECKING:
    from .pool import ConnectionPool

__all__ = ["Lease", "check", "commit", "commit_checked", "ends_session", "roll_back"]

_READ_ONLY = "25006"  # SQLSTATE
_LOST = (
    "the link to the server was lost before the commit, and the transaction with it: nothing of "
    "it is committed"
)


class Lease:
    """The context manager that `ConnectionPool.connection` returns. It never returns twice."""

    __slots__ = ("_conn", "_pool", "_timeout")

    def __init__(self, pool: ConnectionPool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._conn: Any = None

    def __enter__(self) -> Any:
        if self._conn is not None:
            raise RuntimeError("this connection() is in use: call pool.connection() again")
        self._conn = conn = self._pool.getconn(self._timeout)
        return conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pool, conn, self._conn = self._pool, self._conn, None
        # After anything but an Exception (KeyboardInterrupt, a greenlet's timeout) a query may
        # have been cut short with its answer on the wire, whatever the status says.
        close = True
        try:
            if error is None:
                commit(pool, conn)
                close = False
            elif isinstance(error, Exception):
                close = roll_back(pool, conn) or pool.report(conn, error)
        except Exception as failure:
            close = roll_back(pool, conn) or pool.report(conn, failure)
            raise
        finally:
            pool.putconn(conn, close)


def ends_session(pool: ConnectionPool, conn: Any, error: BaseException) -> bool:
    """Return whether an error of the driver's means that the connection should be replaced."""
    state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    # A primary that has become a standby answers so for as long as the session lives; one that
    # takes writes only tells that the borrower's own transaction is read-only, and of a replica
    # nothing else is to be had.
    demoted = state == _READ_ONLY and pool.role != "replica"
    if demoted and _role.is_read_only(pool, conn) is not False:
        return True
    return pool._driver.is_disconnect(conn, error)


def commit(pool: ConnectionPool, conn: Any) -> None:
    """Commit, never silently rolling back.

    Raises TransactionAborted if the transaction cannot be committed any more; CommitUnknown if
    the link is lost during the COMMIT; what else the driver's commit raises.
    """
    commit_checked(pool, conn, check(pool, conn))


def commit_checked(pool: ConnectionPool, conn: Any, status: int) -> None:
    """Commit as `commit` does, when `check` has just returned that status."""
    try:
        pool._driver.commit(conn)
    except Exception as error:
        if status == IDLE or not pool._driver.is_disconnect(conn, error):
            raise
        raise pool._error(CommitUnknown)(
            "the link to the server was lost during COMMIT: whether the transaction was committed "
            "is not known here. Look for what it wrote before writing it again"
        ) from error
    if status != IDLE:
        pool._proved_at = monotonic()  # as proved() does


def check(pool: ConnectionPool, conn: Any) -> int:
    """Return the transaction's status; no round trip.

    Raises TransactionAborted if it has failed (the server would answer COMMIT with a silent
    ROLLBACK) or is known, from the driver or the socket, to have been lost with its link.
    """
    status = pool._driver.transaction_status(conn)
    if status == INERROR:
        raise pool._error(TransactionAborted)(
            "the transaction has failed (a database error was caught and not rolled back), so "
            "nothing of it can be committed: it is rolled back. Let the error through, or use a "
            "savepoint around the statement that may fail"
        )
    if status == UNKNOWN:
        raise pool._error(TransactionAborted)(
            f"{_LOST}. Let the error that told of the lost link through"
        )
    # A driver learns that its session has ended only as it sends something: afterwards nobody
    # could tell whether that came in time. While something is in flight it may be a COMMIT.
    if status == INTRANS and _is_cut_off(pool, conn):
        raise pool._error(TransactionAborted)(
            f"{_LOST}, so all of it may be done again"
        ) from _farewell(pool, conn)
    return status


def _is_cut_off(pool: ConnectionPool, conn: Any) -> bool:
    """Return whether the socket of a lent connection shows its end; no round trip."""
    entry = pool._in_use.get(id(conn))
    return entry is not None and entry() is conn and _socket.look(entry.poll) == _socket.DEAD


def _farewell(pool: ConnectionPool, conn: Any) -> Exception | None:
    """Return what the driver says of a link that is cut off: the server's last words, if any.

    It reads them only when it sends something, and a ROLLBACK does no harm, wherever it goes.
    """
    try:
        with Guard(pool, conn, pool._ping_timeout):
            pool._driver.rollback(conn)
    except Exception as error:
        return error.with_traceback(None)
    return None


def roll_back(pool: ConnectionPool, conn: Any) -> bool:
    """Roll back what is open, within the pool's deadline. True if the connection is of no use."""
    status = pool._driver.transaction_status(conn)
    if status in (INTRANS, INERROR):
        try:
            with Guard(pool, conn, pool._ping_timeout):
                pool._driver.rollback(conn)
        except Exception:
            return True
        pool.proved()
        status = pool._driver.transaction_status(conn)
    return bool(status != IDLE)
