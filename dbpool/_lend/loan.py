"""`with pool.connection()`: one connection for the length of a block, committed or rolled back."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from .._connect import close_returns
from .._runtime import sockets
from .._runtime.clock import monotonic
from .._runtime.process import start_anew, unforked
from ..drivers.base import CLOSED, CLOSED_IN_TRANSACTION, IDLE, INERROR, INTRANS, UNKNOWN
from ..errors import CommitUnknown, TransactionAborted
from .left_early import left_early

if TYPE_CHECKING:
    from .._runtime.time_limit import TimeLimit
    from .._upkeep.session import SessionWatch
    from ..pool import ConnectionPool

__all__ = [
    "Lease",
    "ReturningLease",
    "check",
    "clean_session",
    "commit",
    "commit_checked",
    "limit",
    "roll_back",
]


# What is said of an UNKNOWN connection. The call that told its driver of the loss may have been a
# commit of the block's own, or a statement in autocommit mode, so no text says "nothing": whoever
# believes that writes again what is there.
_CLOSED = (
    "the connection was closed inside its block, where a transaction was open: what was not "
    "committed by then is rolled back. Commit before you close it, or leave both to the block"
)
_LOST = (
    "the link to the server was lost before the commit: what was not committed by then is rolled "
    "back, and what was, stays. Let the error that told of the lost link through, and look for "
    "what was written before writing it again"
)
_LOST_IN_AUTOCOMMIT = (
    "the link to the server was lost in autocommit mode, where each statement commits by itself: "
    "what came before the last one stays, and whether that was committed is not known here. Look "
    "for what was written before writing it again"
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
        unforked or start_anew()
        pool, conn, self._conn = self._pool, self._conn, None
        early = error is not None and left_early(error, traceback)
        if early and pool._store.entry_of(conn) is None:
            return  # found by the collector in a cycle with its generator, and dropped with it
        # After anything but an Exception (KeyboardInterrupt, a greenlet's timeout) a query may
        # have been cut short with its answer on the wire, whatever the status says.
        close: bool | None = True
        try:
            if error is None:
                commit(pool, conn)
                close = None  # False, of a block: no matter in which thread it has ended
            elif isinstance(error, Exception):
                close = roll_back(pool, conn) or pool.report(conn, error) or None
            elif early:
                close = roll_back(pool, conn) or None
        except Exception as failure:
            close = roll_back(pool, conn) or pool.report(conn, failure) or None
            raise
        finally:
            pool.putconn(conn, close)  # type: ignore[arg-type]


def limit(pool: ConnectionPool, conn: Any) -> TimeLimit:
    """Return a context manager that bounds an operation of the pool's own, by `ping_timeout`."""
    return pool._runner.limit(pool.driver, conn, pool.settings.ping_timeout)


def roll_back(pool: ConnectionPool, conn: Any) -> bool:
    """Roll back what is open, within a limit. True if the connection is of no use."""
    return pool._cleaner.roll_back(conn)


def clean_session(pool: ConnectionPool, conn: Any, watch: SessionWatch) -> bool:
    """Make the session of a lent connection as it was when it was opened; see `Cleaner`."""
    return pool._cleaner.clean_session(conn, watch)


def commit(pool: ConnectionPool, conn: Any) -> None:
    """Commit, never silently rolling back.

    Raises TransactionAborted if the transaction cannot be committed any more; CommitUnknown if
    the link is lost during the COMMIT; what else the driver's commit raises.
    """
    commit_checked(pool, conn, check(pool, conn))


def commit_checked(pool: ConnectionPool, conn: Any, status: int) -> None:
    """Commit as `commit` does, when `check` has just returned that status."""
    if status == UNKNOWN:  # its borrower has closed it, with nothing left to be committed
        return
    try:
        pool.driver.commit(conn)
    except Exception as error:
        if status == IDLE or not pool.driver.is_disconnect(conn, error):
            raise
        raise pool._error(CommitUnknown)(
            "the link to the server was lost during COMMIT: whether the transaction was committed "
            "is not known here. Look for what it wrote before writing it again"
        ) from error
    if status != IDLE:
        pool._store.proved_at = monotonic()  # as proved() does


def check(pool: ConnectionPool, conn: Any) -> int:
    """Return the transaction's status; no round trip.

    That of a connection which its borrower has closed, with no transaction open, is UNKNOWN.
    Raises TransactionAborted if the transaction has failed (the server would answer COMMIT with a
    silent ROLLBACK) or is known, from the driver or the socket, to have been lost with its link;
    CommitUnknown if it was lost where statements commit by themselves.
    """
    status = pool.driver.transaction_status(conn)
    if status == INERROR:
        raise pool._error(TransactionAborted)(
            "the transaction has failed (a database error was caught and not rolled back), so "
            "nothing of it can be committed: it is rolled back. Let the error through, or use a "
            "savepoint around the statement that may fail"
        )
    if status == UNKNOWN:
        _check_closed(pool, conn)
    # A driver learns that its session has ended only as it sends something: afterwards nobody
    # could tell whether that came in time. While something is in flight it may be a COMMIT.
    if status == INTRANS and _is_cut_off(pool, conn):
        raise pool._error(TransactionAborted)(
            "the link to the server was lost before the commit, and the open transaction with it: "
            "nothing of that is committed, so all of it may be done again"
        ) from _farewell(pool, conn)
    return status


def _check_closed(pool: ConnectionPool, conn: Any) -> None:
    """Return only if an UNKNOWN connection was closed by its borrower after all was committed."""
    how = pool.driver.how_closed(conn)
    if how == CLOSED:
        return
    if how == CLOSED_IN_TRANSACTION:
        raise pool._error(TransactionAborted)(_CLOSED)
    if pool.driver.in_autocommit(conn):
        raise pool._error(CommitUnknown)(_LOST_IN_AUTOCOMMIT)
    raise pool._error(TransactionAborted)(_LOST)


def _is_cut_off(pool: ConnectionPool, conn: Any) -> bool:
    """Return whether the socket of a lent connection shows its end; no round trip."""
    entry = pool._store.entry_of(conn)
    return entry is not None and sockets.look(entry.poll) == sockets.DEAD


def _farewell(pool: ConnectionPool, conn: Any) -> Exception | None:
    """Return what the driver says of a link that is cut off: the server's last words, if any.

    It reads them only when it sends something, and a ROLLBACK does no harm, wherever it goes.
    """
    try:
        with limit(pool, conn):
            pool.driver.rollback(conn)
    except Exception as error:
        return error.with_traceback(None)
    return None


class ReturningLease(Lease):
    """A block, at whose end the connection goes back: until then its close() closes it."""

    __slots__ = ()

    def __enter__(self) -> Any:
        conn = super().__enter__()
        self._pool.driver.replace_close(conn, None)
        return conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            give_back = self._pool._give_back
            assert give_back is not None
            close_returns.attach(self._pool.driver, self._conn, give_back)
        finally:
            super().__exit__(kind, error, traceback)
