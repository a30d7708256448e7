"""What the end of a transaction tells the pool, and what may be given back then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool.adapters import start_anew, unforked
from dbpool.drivers.base import IDLE

if TYPE_CHECKING:
    from ._loan import Loan, Supplier

__all__ = ["TransactionEnds"]


class TransactionEnds(BaseDatabaseWrapper):
    """Goes before Django's own wrapper class."""

    _dbpool_loan: Loan | None
    _dbpool_connecting: bool

    def _commit(self) -> None:
        asks = self._dbpool_ends_transaction()
        super()._commit()  # type: ignore[misc]
        if asks is not None:
            asks.pool.note_success()

    def _rollback(self) -> None:
        asks = self._dbpool_ends_transaction()
        super()._rollback()  # type: ignore[misc]
        if asks is not None:
            asks.pool.note_success()

    def _dbpool_ends_transaction(self) -> Supplier | None:
        """Return whose server is to be asked now; an answer spares a health check its question.

        No driver asks the server to end a transaction that no statement has begun.
        """
        unforked or start_anew()
        loan, conn = self._dbpool_loan, self.connection
        if loan is None or conn is None:
            return None
        idle = loan.supplier.opener.transaction_status(conn) == IDLE
        return None if idle else loan.supplier

    def set_autocommit(self, autocommit: bool, *args: Any, **kwargs: Any) -> None:
        """Begin or end transactions; Django does this at the end of each atomic block."""
        unforked or start_anew()
        super().set_autocommit(autocommit, *args, **kwargs)
        if autocommit:
            self._dbpool_release()

    def _dbpool_release(self) -> None:
        """For `release="transaction"`: give back what nothing needs until the next statement."""
        loan = self._dbpool_loan
        if (
            loan is not None
            and loan.supplier.releases
            and self.autocommit
            and not self.in_atomic_block
            and not self._dbpool_connecting
            and not self.allow_thread_sharing
            and not loan.is_pinned(self.connection)
            and not (loan.supplier.resets and loan.has_changed(self.connection))
            and loan.supplier.opener.transaction_status(self.connection) == IDLE
        ):
            self.close()
