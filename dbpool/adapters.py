"""The door for packages that bind a pool to a framework, a task queue, or any unit of work.

An adapter borrows a connection for its unit of work, says who answers for it, and ends the unit by
one of three verbs: commit, roll back, give back. `dbpool_flask` and `dbpool_django` stand on this
door; docs/adapters.md shows how one for Celery and one for FastAPI do. What is not here, in
`dbpool`, `dbpool.options`, `dbpool.health` or `dbpool.drivers.base` may change at any time.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ._explained import explained
from ._lend.left_early import left_early
from ._runtime import sockets
from ._runtime.clock import monotonic
from ._runtime.forks import on_child
from ._runtime.frames import forget_locals
from ._runtime.process import start_anew, unforked
from ._runtime.scheduler import keeper
from ._shown import any_of, is_word, shown
from ._upkeep.session import SessionWatch
from .drivers._conninfo import not_possible
from .drivers._watched import Watched, is_watched, statement_of
from .drivers.wrapped import WrappedDriver
from .health.unavailable import UNAVAILABLE, retry_after

if TYPE_CHECKING:
    from ._runtime.time_limit import TimeLimit
    from .drivers.base import Driver
    from .pool import ConnectionPool

__all__ = [
    "UNAVAILABLE",
    "Loan",
    "Owner",
    "SessionWatch",
    "Watched",
    "WrappedDriver",
    "after_fork",
    "any_of",
    "borrow",
    "close_with",
    "explained",
    "forget_locals",
    "is_watched",
    "is_word",
    "left_early",
    "lent",
    "looks_alive",
    "monotonic",
    "not_possible",
    "retry_after",
    "shown",
    "start_anew",
    "statement_of",
    "unforked",
]

logger = logging.getLogger("dbpool.pool")

FEW = 16  # cursors of a loan that are remembered before the dropped ones are forgotten


class Owner(Protocol):
    """Who answers for a loan: a request, a task, a thread. It must not hold the connection."""

    def is_alive(self) -> bool:
        """Return whether somebody will still give the connection back.

        Asked by callers that find the pool exhausted, in any thread. A connection whose owner is
        not alive is taken back and closed.
        """


def borrow(
    pool: ConnectionPool, owner: Owner | None = None, timeout: float | None = None
) -> tuple[Any, Loan]:
    """Take a connection and its loan.

    Arguments: `owner`, who answers for it; `timeout`, seconds to wait, instead of the pool's.
    Raises what `ConnectionPool.getconn` raises; TypeError for an owner that is none.
    """
    conn = pool.getconn(timeout)
    try:
        if owner is not None:
            pool.own(conn, owner)
        return conn, Loan(pool)
    except BaseException:
        pool.putconn(conn)
        raise


class Loan:
    """A lent connection, as the one who has to bring it back deals with it.

    It never holds the connection: whoever drops that frees the slot. So each verb is given it. Used
    by one thread at a time, as the connection itself.

    Arguments: `watch`, which knows whether the session has been changed, if it is to be cleaned
    only then.
    """

    __slots__ = ("_many", "broken", "cursors", "pool", "watch")

    def __init__(self, pool: ConnectionPool, watch: SessionWatch | None = None) -> None:
        self.pool = pool
        self.watch = watch
        self.broken = False  # whether an error has ended the session: it is not lent again
        self.cursors: list[weakref.ref[Any]] | None = None
        self._many = FEW

    # -- its cursors

    def track(self, cursor: Any) -> Any:
        """Have a cursor of the driver's end with the loan; return it."""
        cursors = self.cursors
        if cursors is None:
            self.cursors = [weakref.ref(cursor)]
            return cursor
        if len(cursors) >= self._many:
            cursors[:] = [ref for ref in cursors if ref() is not None]
            self._many = max(FEW, 2 * len(cursors))  # else each further one would look at all
        cursors.append(weakref.ref(cursor))
        return cursor

    def open_cursors(self) -> list[Any]:
        """Return the cursors that somebody still holds and has not closed."""
        found = [ref() for ref in self.cursors or ()]
        return [one for one in found if one is not None and not getattr(one, "closed", False)]

    # -- its transaction

    def status(self, conn: Any) -> int:
        """Return the transaction's status as libpq numbers it (`dbpool.drivers.base`)."""
        return self.pool.driver.transaction_status(conn)

    def note_error(self, conn: Any, error: BaseException) -> bool:
        """Judge an error of the driver's at once. True if it has ended the session."""
        self.broken = self.broken or self.pool.report(conn, error)
        return self.broken

    def check_commit(self, conn: Any) -> int:
        """Return the status for `commit`; no round trip.

        Raises TransactionAborted if the transaction has failed, or was lost with its link;
        CommitUnknown if the link was lost where statements commit by themselves.
        """
        return self.pool._transactions.check(conn)

    def commit(self, conn: Any, status: int | None = None) -> None:
        """Commit, never silently rolling back.

        Arguments: `status`, what `check_commit` has just returned, if it was asked.
        Raises what `check_commit` raises; CommitUnknown if the link is lost during the COMMIT;
        what else the driver's commit raises.
        """
        transactions = self.pool._transactions
        transactions.commit_checked(conn, transactions.check(conn) if status is None else status)

    def roll_back(self, conn: Any) -> bool:
        """Roll back what is open, within `ping_timeout`. True if the connection is of no use."""
        return self.pool._cleaner.roll_back(conn)

    def bounded(self, conn: Any) -> TimeLimit:
        """Return a context manager: what runs in it ends within the pool's `ping_timeout`."""
        return self.pool._cleaner.limit(conn)

    def clean(self, conn: Any) -> bool:
        """Make the session as it was when it was opened. False if that did not succeed.

        The connection is not in a transaction. Needs a `watch`.
        """
        assert self.watch is not None
        return self.pool._cleaner.clean_session(conn, self.watch)

    # -- its end

    def give_back(self, conn: Any, *, torn: bool = False) -> None:
        """Roll back what is open, close the cursors and return the connection; once. Never raises.

        Arguments: `torn`, whether an operation was cut short (a timeout of the framework's, a
        KeyboardInterrupt): its answer may be on the wire yet, so the connection is closed.
        A named cursor that is still open costs the connection, too: to close it would send
        something later, in the next borrower's session.
        """
        close = True
        try:
            if not (torn or self.broken):
                close = self.roll_back(conn)
                for cursor in self.open_cursors():
                    if getattr(cursor, "name", None):
                        close = True
                    else:
                        cursor.close()  # sends nothing
                if self.watch is not None and not close and self.watch.changed(conn):
                    close = not self.clean(conn)
        finally:
            try:
                self.pool.putconn(conn, close)
            except ValueError:
                logger.warning(
                    "pool %r has taken a connection back from an owner that seemed dead, or it was "
                    "returned already",
                    self.pool.name,
                )


def lent(pool: ConnectionPool, conn: Any) -> Any:
    """Return the connection that the pool has lent, where a proxy stands in its place.

    `conn` itself if none is known along its `__wrapped__`.
    """
    inner = conn
    while inner is not None:
        if pool._store.entry_of(inner) is not None:
            return inner
        inner = getattr(inner, "__wrapped__", None)
    return conn


def looks_alive(driver: Driver, conn: Any) -> bool:
    """Return whether a connection's socket can be looked at and shows no end; no round trip."""
    fd = driver.fileno(conn)
    return fd is not None and sockets.look(sockets.poller(fd)) == sockets.ALIVE


def after_fork(call: Callable[[], object]) -> None:
    """Call `call` once in each forked child, after the pools have begun anew there."""
    on_child(call)


# -- pools that end with something


def close_with(owner: Any, name: str, pools: Mapping[str, ConnectionPool]) -> None:
    """Have pools closed soon after an object is gone, whoever else still holds them.

    The object may be collected anywhere, under any lock. So its finaliser only puts a request on a
    queue. The scheduler's thread closes the pools or, where none runs, the next call does.
    Arguments: `owner`, an app say, of which a weak reference must be possible; `name`, for the log.
    """
    _close_asked()
    farewell = _Farewell(name, pools)
    keeper.register(farewell)
    # It holds the farewell, and that the pools, for as long as the owner lives.
    weakref.finalize(owner, farewell.ask).atexit = False


_asked: deque[_Farewell] = deque()


class _Farewell:
    """A task of the scheduler: to close the pools of an owner that is gone."""

    def __init__(self, name: str, pools: Mapping[str, ConnectionPool]) -> None:
        self.name = name
        self._pools = pools
        self.due = math.inf

    def ask(self) -> None:
        """Run by the finaliser: nothing here takes a lock, waits or can fail."""
        _asked.append(self)
        self.due = 0.0
        inbox = keeper._inbox
        if inbox is not None:
            inbox.put(None)

    def run(self, now: float) -> float:
        """Close what was asked for."""
        _close_asked()
        return math.inf

    def close(self) -> None:
        """Close the pools; waits for nothing."""
        keeper.forget(self)
        for pool in self._pools.values():
            pool.close(timeout=0)


def _close_asked() -> None:
    while True:
        try:
            farewell = _asked.popleft()
        except IndexError:
            return
        farewell.close()
