"""`with db.test_isolation():` what the app commits in there is undone at the end.

One connection of each database is pinned, in one transaction. A unit of work of the app (what a
request commits, a block, `db.commit()`) is a savepoint in it, so a commit releases and a rollback
rolls back to it. Deferred constraints are checked at each of these commits, as they would be.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from dbpool import PoolTimeout
from dbpool.adapters import Loan, monotonic
from dbpool.drivers.base import ACTIVE, IDLE, INTRANS

from . import _dialect
from ._cursors import close_all
from ._hooks import Unit
from ._lease import ContextLease
from ._watched import WatchedConnection

if TYPE_CHECKING:
    from types import TracebackType

    from dbpool import ConnectionPool
    from dbpool.adapters import SessionWatch

    from ._context import Owner

__all__ = ["Isolation"]


class Isolation:
    """The pinned connections of one app, while they are pinned."""

    def __init__(
        self, pools: Mapping[str, ConnectionPool], watches: Mapping[str, SessionWatch]
    ) -> None:
        self._pools = pools
        self._watches = watches
        self._pinned: dict[str, Pinned] = {}

    def __enter__(self) -> Isolation:
        try:
            for name, pool in self._pools.items():
                self._pinned[name] = Pinned(pool, self._watches.get(name))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._pinned:
            self._pinned.popitem()[1].unpin()

    def lend(self, name: str, unit: Unit, owner: Owner) -> WatchedConnection:
        """Return the pinned connection, behind a fence of the context's own."""
        pool = cast("ConnectionPool", self._pinned[name])
        watch = self._watches.get(name)
        return WatchedConnection(IsolatedLease(name, pool, unit, owner, watch))


class Pinned:
    """One pinned connection and the units that are open on it, innermost last.

    Stands in for its pool towards the leases. Units of one thread nest; a unit of another thread
    (of a live server) waits for them to end.
    """

    def __init__(self, pool: ConnectionPool, watch: SessionWatch | None) -> None:
        self._pool = pool
        self._loan = Loan(pool, watch)
        self.name = pool.name
        self.driver = pool.driver
        self.error = pool.error
        # Guards _units and _threads; waited on by threads whose turn it is not.
        self._turn = threading.Condition()
        self._units: list[IsolatedLease] = []
        self._threads: list[int] = []
        self._conn = pool.getconn()
        self.autocommit = _dialect.in_autocommit(self._conn)
        try:
            _dialect.begin_for_good(self._conn)
        except BaseException:
            pool.putconn(self._conn, close=True)
            raise

    def unpin(self) -> None:
        """Undo everything and return the connection; if its link is lost, the server undoes it."""
        conn, self._conn = self._conn, None
        close = True
        try:
            close = self._loan.roll_back(conn)
            watch = self._loan.watch  # a rollback may not undo what statements have done
            if watch is not None and not close and watch.changed(conn):
                close = not self._loan.clean(conn)
        finally:
            self._pool.putconn(conn, close)

    # -- what a lease asks of its pool

    def getconn(self) -> Any:
        """Return the pinned connection."""
        return self._conn

    def own(self, conn: Any, owner: Owner) -> None:
        """Nobody can lose what is pinned."""

    def report(self, conn: Any, error: BaseException) -> bool:
        """Tell the pool of an error; return whether the session is over."""
        return self._pool.report(conn, error)

    def check(self) -> int:
        """Return the status of what is pinned, which the pool itself has lent; or raise."""
        return self._loan.check_commit(self._conn)

    # -- units

    def begin(self, lease: IsolatedLease) -> None:
        """Open a unit, unless the lease has one."""
        me, deadline = threading.get_ident(), monotonic() + self._pool.timeout
        with self._turn:
            while lease not in self._units:
                if not self._units or self._threads[-1] == me:
                    self._units.append(lease)
                    self._threads.append(me)
                    break
                if not self._turn.wait(deadline - monotonic()):
                    raise self.error(PoolTimeout)(
                        "under db.test_isolation() another thread has an open transaction, and "
                        f"it has not ended within {self._pool.timeout:g} s: commit or roll back "
                        "what the test itself has written before it calls the app"
                    )
            else:
                return
        try:
            _dialect.execute(self._conn, f"SAVEPOINT {self._name(lease)}")
            if lease.read_only:
                _dialect.make_unit_read_only(self._conn)
        except BaseException:
            self._forget(lease)
            raise

    def commit(self, lease: IsolatedLease) -> None:
        """End its unit well, once the deferred constraints have been checked."""
        if lease in self._units:
            _dialect.check_deferred(self._conn)
            _dialect.execute(self._conn, f"RELEASE SAVEPOINT {self._name(lease)}")
            self._forget(lease)

    def rollback(self, lease: IsolatedLease) -> None:
        """Undo its unit."""
        if lease in self._units:
            name = self._name(lease)
            try:
                _dialect.execute(
                    self._conn, f"ROLLBACK TO SAVEPOINT {name}", f"RELEASE SAVEPOINT {name}"
                )
            finally:
                self._forget(lease)

    def is_open(self, lease: IsolatedLease) -> bool:
        """Return whether the lease has a unit."""
        return lease in self._units

    def _name(self, lease: IsolatedLease) -> str:
        return f"dbpool_unit_{self._units.index(lease)}"

    def _forget(self, lease: IsolatedLease) -> None:
        if lease.read_only:
            _dialect.end_read_only_unit(self._conn)
        with self._turn:
            at = self._units.index(lease)
            del self._units[at:], self._threads[at:]  # and what was opened in it
            self._turn.notify_all()


class IsolatedLease(ContextLease):
    """A context's part of the pinned connection."""

    __slots__ = ("_autocommit", "read_only")

    def __init__(
        self, name: str, pool: ConnectionPool, unit: Unit, owner: Owner, watch: SessionWatch | None
    ) -> None:
        super().__init__(name, pool, unit, owner, watch)
        self._autocommit = self._pinned.autocommit
        self.read_only = False

    @property
    def _pinned(self) -> Pinned:
        return cast("Pinned", self.pool)

    def enter(self) -> None:
        """A use begins: in a unit."""
        self.raw()
        self._pinned.begin(self)

    def leave(self) -> None:
        """A use has ended: so has its unit in autocommit mode."""
        if self._autocommit and not self.blocks:
            status = super().status()
            if status == INTRANS:
                self._pinned.commit(self)
            elif status != ACTIVE:  # as between two rows of psycopg 3's `stream`
                self._pinned.rollback(self)

    def status(self) -> int:
        """Return the status of the context's own unit."""
        return super().status() if self._pinned.is_open(self) else IDLE

    def _check_transaction(self) -> int:
        return self._pinned.check() if self._pinned.is_open(self) else IDLE

    def _commit(self, status: int) -> None:
        self._pinned.commit(self)

    def _roll_back(self) -> bool:
        self._pinned.rollback(self)
        return False

    def loses_work(self) -> bool:
        """Return False: who has written what cannot be told here, as all is one transaction."""
        return False

    def autocommits(self) -> bool:
        """Return whether each statement is a unit."""
        return self._autocommit

    def begin(self) -> None:
        """The next statement opens a unit."""

    def set_autocommit(self) -> None:
        """Have each statement be a unit."""
        self._autocommit = True

    def make_read_only(self) -> None:
        """Have the server refuse writes in the units to come."""
        self._was_read_only = self.read_only
        self.read_only = True

    def set_writable(self, on: bool) -> None:
        """Suspend `make_read_only` for the length of a block that commits for itself."""
        self._pinned.rollback(self)
        self.read_only = not on

    def give_back(self, torn: bool = False) -> None:
        """Roll back what is open; the connection stays pinned."""
        try:
            self._pinned.rollback(self)
        finally:
            self.conn = None
            close_all(self.loan.cursors or [])
