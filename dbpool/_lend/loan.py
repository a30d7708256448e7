"""`with pool.connection()`: one connection for the length of a block, committed or rolled back."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from .._connect import close_returns
from .._runtime.process import start_anew, unforked
from .left_early import left_early

if TYPE_CHECKING:
    from .._store.inventory import Inventory
    from .._upkeep.cleaning import Cleaner
    from ..drivers.base import Driver
    from .transaction import Transactions

__all__ = ["Lease", "ReturningLease"]


class Lender(Protocol):
    """What a block needs of its pool."""

    _cleaner: Cleaner
    _give_back: Callable[[Any], bool] | None
    _store: Inventory
    _transactions: Transactions

    @property
    def driver(self) -> Driver:
        """The driver in use."""

    def getconn(self, timeout: float | None = None) -> Any:
        """Take a connection."""

    def putconn(self, conn: Any, close: bool = False) -> None:
        """Give it back."""

    def report(self, conn: Any, error: BaseException) -> bool:
        """Judge an error of the driver's; return whether the session is over."""


class Lease:
    """The context manager that `ConnectionPool.connection` returns. It never returns twice."""

    __slots__ = ("_conn", "_pool", "_timeout")

    def __init__(self, pool: Lender, timeout: float | None) -> None:
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
                pool._transactions.commit(conn)
                close = None  # False, of a block: no matter in which thread it has ended
            elif isinstance(error, Exception):
                close = pool._cleaner.roll_back(conn) or pool.report(conn, error) or None
            elif early:
                close = pool._cleaner.roll_back(conn) or None
        except Exception as failure:
            close = pool._cleaner.roll_back(conn) or pool.report(conn, failure) or None
            raise
        finally:
            pool.putconn(conn, close)  # type: ignore[arg-type]


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
