"""Whether a transaction may be committed, and its commit: never a silent rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._runtime import sockets
from ..drivers.base import CLOSED, CLOSED_IN_TRANSACTION, IDLE, INERROR, INTRANS, UNKNOWN
from ..errors import CommitUnknown, TransactionAborted

if TYPE_CHECKING:
    from .._upkeep.cleaning import Cleaner
    from .refusal import Refusals

__all__ = ["Transactions"]

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


class Transactions:
    """Ends the transactions of one pool's borrowers. Any thread may use it."""

    def __init__(self, cleaner: Cleaner, refusals: Refusals) -> None:
        self._store = cleaner.store
        self._driver = cleaner.store.driver
        self._cleaner = cleaner
        self._error = refusals.error

    def commit(self, conn: Any) -> None:
        """Commit, never silently rolling back.

        Raises TransactionAborted if the transaction cannot be committed any more; CommitUnknown if
        the link is lost during the COMMIT; what else the driver's commit raises.
        """
        self.commit_checked(conn, self.check(conn))

    def commit_checked(self, conn: Any, status: int) -> None:
        """Commit as `commit` does, when `check` has just returned that status."""
        if status == UNKNOWN:  # its borrower has closed it, with nothing left to be committed
            return
        try:
            self._driver.commit(conn)
        except Exception as error:
            if status == IDLE or not self._driver.is_disconnect(conn, error):
                raise
            raise self._error(CommitUnknown)(
                "the link to the server was lost during COMMIT: whether the transaction was "
                "committed is not known here. Look for what it wrote before writing it again"
            ) from error
        if status != IDLE:
            self._store.note_success()

    def check(self, conn: Any) -> int:
        """Return the transaction's status; no round trip.

        That of a connection which its borrower has closed, with no transaction open, is UNKNOWN.
        Raises TransactionAborted if the transaction has failed (the server would answer COMMIT with
        a silent ROLLBACK) or is known, from the driver or the socket, to have been lost with its
        link; CommitUnknown if it was lost where statements commit by themselves.
        """
        status = self._driver.transaction_status(conn)
        if status == INERROR:
            raise self._error(TransactionAborted)(
                "the transaction has failed (a database error was caught and not rolled back), so "
                "nothing of it can be committed: it is rolled back. Let the error through, or use "
                "a savepoint around the statement that may fail"
            )
        if status == UNKNOWN:
            self._check_closed(conn)
        # A driver learns that its session has ended only as it sends something: afterwards nobody
        # could tell whether that came in time. While something is in flight it may be a COMMIT.
        if status == INTRANS and self._is_cut_off(conn):
            raise self._error(TransactionAborted)(
                "the link to the server was lost before the commit, and the open transaction with "
                "it: nothing of that is committed, so all of it may be done again"
            ) from self._farewell(conn)
        return status

    def _check_closed(self, conn: Any) -> None:
        """Return only if its borrower closed an UNKNOWN connection after all was committed."""
        how = self._driver.how_closed(conn)
        if how == CLOSED:
            return
        if how == CLOSED_IN_TRANSACTION:
            raise self._error(TransactionAborted)(_CLOSED)
        if self._driver.in_autocommit(conn):
            raise self._error(CommitUnknown)(_LOST_IN_AUTOCOMMIT)
        raise self._error(TransactionAborted)(_LOST)

    def _is_cut_off(self, conn: Any) -> bool:
        """Return whether the socket of a lent connection shows its end; no round trip."""
        entry = self._store.entry_of(conn)
        return entry is not None and sockets.look(entry.poll) == sockets.DEAD

    def _farewell(self, conn: Any) -> Exception | None:
        """Return what the driver says of a link that is cut off: the server's last words, if any.

        It reads them only when it sends something, and a ROLLBACK does no harm, wherever it goes.
        """
        try:
            with self._cleaner.limit(conn):
                self._driver.rollback(conn)
        except Exception as error:
            return error.with_traceback(None)
        return None
