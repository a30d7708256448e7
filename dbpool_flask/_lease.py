"""One connection, lent to one context: what ends it, and what it may still do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dbpool import TransactionAborted
from dbpool.adapters import Loan, SessionWatch, start_anew, unforked
from dbpool.drivers.base import IDLE, INERROR, INTRANS

from . import _dialect
from ._cursors import close_all, close_quietly
from ._errors import CAUGHT, released
from ._routing import PRIMARY

if TYPE_CHECKING:
    from dbpool import ConnectionPool

    from ._context import Owner
    from ._hooks import Unit

__all__ = ["ContextLease"]

logger = logging.getLogger("dbpool.flask")

_NEVER = object()


class ContextLease:
    """A connection of the pool in the hands of a context, with the cursors made through it.

    `conn` is None from the moment in which it goes back: everything that was handed out looks
    there first. Whoever calls `give_back` must have taken the lease away from its scope before,
    which only one can.
    """

    __slots__ = (
        "_was_read_only",
        "blocks",  # the db.transaction() blocks that are open, innermost last
        "conn",
        "loan",  # of the connection: its cursors, its end
        "lost",  # the link broke, and the app has rolled back: the next read takes a new one
        "name",
        "pool",
        "torn",  # something was cut short: the state of the transaction is not known
        "unit",
        "watch",  # of reset="auto", to which each statement is reported; else None
    )

    def __init__(
        self, name: str, pool: ConnectionPool, unit: Unit, owner: Owner, watch: SessionWatch | None
    ) -> None:
        self.name = name
        self.pool = pool
        self.unit = unit
        self.conn: Any = pool.getconn()
        self.blocks: list[Any] = []
        self.lost = self.torn = False
        self.loan = Loan(pool, watch)
        self._was_read_only: Any = _NEVER
        self.watch = watch
        pool.own(self.conn, owner)

    def raw(self) -> Any:
        """Return the driver's connection. Raises ConnectionReleased after the end."""
        unforked or start_anew()
        conn = self.conn
        if conn is None:
            raise released()
        return conn

    def adopt(self, cursor: Any) -> Any:
        """Remember a cursor of the driver's, so that it ends with the lease."""
        self.loan.track(cursor)
        if self.conn is None:  # the end came between making it and remembering it
            close_quietly(cursor)
            raise released()
        return cursor

    def enter(self) -> None:
        """A use begins; only `WatchedConnection` and its cursors tell."""

    def leave(self) -> None:
        """A use has ended; only `WatchedConnection` and its cursors tell."""

    def note_error(self, error: Exception) -> None:
        """Judge an error of the driver's at once, and tell the pool if it has ended the session."""
        conn = self.conn
        if conn is None or self.loan.broken:
            return
        # While it is made read-only, a refusal to write says nothing about the server.
        if self._was_read_only is _NEVER or self.pool.driver.is_disconnect(conn, error):
            self.loan.note_error(conn, error)

    def status(self) -> int:
        """Return the transaction's status as libpq numbers it; no round trip."""
        return self.pool.driver.transaction_status(self.raw())

    # -- the transaction

    def autocommits(self) -> bool:
        """Return whether a statement outside a block commits by itself."""
        return _dialect.in_autocommit(self.raw())

    def begin(self) -> None:
        """Open a transaction, unless the next statement will."""
        _dialect.begin(self.raw())

    def execute(self, *statements: str) -> None:
        """Run statements of our own."""
        self.enter()
        try:
            _dialect.execute(self.raw(), *statements)
        finally:
            self.leave()

    def check(self) -> int:
        """Return the status for `commit_checked`; no round trip.

        Raises TransactionAborted if this could not be committed.
        """
        self.raw()
        if self.unit.doomed:
            raise self.aborted("db.doom() was called")
        if self.lost:
            return IDLE
        try:
            status = self._check_transaction()
        except TransactionAborted:
            if self.status() == INERROR:
                raise self.aborted(*CAUGHT) from None
            raise
        if self.torn:
            raise self.aborted("an operation on this connection was cut short (a timeout, a fork?)")
        if self.blocks:
            self.check_left()
        return status

    def check_left(self) -> None:
        """Raise TransactionAborted if a block is still open."""
        if self.blocks:
            raise self.aborted("a `with db.transaction()` block was still open")

    def commit(self) -> None:
        """Commit what is open. Raises what `check` raises, CommitUnknown, the driver's errors."""
        self.raw()
        self.refuse_in_block("commit")
        self.commit_checked(self.check())

    def commit_checked(self, status: int) -> None:
        """Commit, after `check` has found nothing against it and returned the status."""
        if not self.lost:
            if status != IDLE and self.unit.wrote is False and self.name == PRIMARY:
                self.unit.wrote = True
            self._commit(status)

    def rollback(self) -> None:
        """Roll back what is open; if the link is broken, the server does."""
        self.raw()
        self.refuse_in_block("rollback")
        self.lost = self._roll_back()

    def abandon(self) -> None:
        """Roll back what is open, blocks that nobody leaves any more included. Never raises.

        What was cut short is left to the server: the next use takes another connection.
        """
        self.blocks.clear()
        if self.conn is not None and not self.lost:
            try:
                self.lost = self.torn or self._roll_back()
            except Exception:
                self.lost = True

    def may_have_written(self) -> bool:
        """Return whether something was written here and is not committed yet.

        Costs a round trip where a transaction is open.
        """
        unforked or start_anew()
        if self.conn is None or self.lost or self.torn:
            return True
        if self._was_read_only is not _NEVER and not self.blocks:
            return False
        status = self.status()
        if status == INTRANS and not self.autocommits():
            return _dialect.has_written(self.conn)
        return status != IDLE or self.autocommits()

    def loses_work(self) -> bool:
        """Return whether giving it back now undoes something that was written. Never raises.

        Costs a round trip, within the pool's deadline, where a transaction is open.
        """
        try:
            if self.lost or self.status() == IDLE:
                return False
            with self.loan.bounded(self.conn):
                return self.may_have_written()
        except Exception:  # the link is gone, and with it the transaction
            return True

    def _check_transaction(self) -> int:
        return self.loan.check_commit(self.conn)

    def _commit(self, status: int) -> None:
        self.loan.commit(self.conn, status)

    def _roll_back(self) -> bool:
        """Roll back what is open. True if the connection is of no further use."""
        return self.loan.roll_back(self.conn)

    def refuse_in_block(self, verb: str) -> None:
        """Raise RuntimeError if a block is open, whose transaction is its own to end."""
        if self.blocks:
            raise RuntimeError(
                f"{verb}() inside a `with db.transaction()` block would end the block's "
                "transaction under it: leave the block first (to undo it, raise an exception)"
            )

    def aborted(self, why: str, advice: str = "") -> TransactionAborted:
        """Return the error for a transaction that cannot be committed."""
        return self.pool.error(TransactionAborted)(
            f"{why}, so nothing of this transaction can be committed: it is rolled back{advice}"
        )

    # -- its settings

    def set_autocommit(self) -> None:
        """Have each statement commit by itself; the pool puts it back."""
        _dialect.set_autocommit(self.conn)

    def make_read_only(self) -> None:
        """Have the server refuse writes."""
        self._was_read_only = _dialect.make_read_only(self.conn)

    def set_writable(self, on: bool) -> None:
        """Suspend `make_read_only` for the length of a block that commits for itself."""
        self.loan.roll_back(self.raw())  # what only has read, at the start of the block
        if on:
            _dialect.restore_access(self.conn, self._was_read_only)
        else:
            _dialect.make_read_only(self.conn)

    # -- the end

    def give_back(self, torn: bool = False) -> None:
        """Roll back what is open and return the connection.

        Arguments: `torn`, whether something cut an operation short: then nothing more is sent,
        and the connection is closed.
        """
        unforked or start_anew()
        conn, self.conn = self.conn, None
        close = True
        try:
            loan = self.loan
            if not (torn or self.torn or self.lost or loan.broken):
                close = loan.status(conn) != IDLE and loan.roll_back(conn)
                if loan.cursors:
                    close = close_all(loan.cursors) or close
                if self._was_read_only is not _NEVER and not close:
                    close = not self._let_write(conn)
                watch = self.watch
                if watch is not None and not close and watch.changed(conn):
                    close = not loan.clean(conn)
        finally:
            try:
                self.pool.putconn(conn, close)
            except ValueError:
                logger.warning(
                    "pool %r has taken a connection back from a context that seemed dead, or the "
                    "app has returned it itself",
                    self.pool.name,
                )

    def forked(self) -> bool:
        """Let go of it in a forked child. False if something is open on it.

        That is the parent process's to end: here it can neither be gone on with nor committed.
        """
        conn = self.conn
        if conn is not None:
            if self.blocks or self.pool.driver.transaction_status(conn) != IDLE:
                self.torn = True
                return False
            self.conn = None
            self.loan.cursors = None
        return True

    def _let_write(self, conn: Any) -> bool:
        """Undo `make_read_only`, within the pool's deadline. False if that did not succeed."""
        try:
            with self.loan.bounded(conn):
                _dialect.restore_access(conn, self._was_read_only)
        except Exception:  # the pool replaces it
            return False
        return True
