"""A database wrapper of Django's whose connections come from a pool.

Taken at the first query, given back by `close()`, which Django calls at the end of each request.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from dbpool import ConnectionPool, PoolClosed, _fork
from dbpool.drivers.base import IDLE

from . import _settings, pools
from ._loan import Loan, Supplier
from ._owner import Owner

__all__ = ["PooledWrapper"]


class PooledWrapper(BaseDatabaseWrapper):
    """What a pooled backend puts before Django's own wrapper class.

    Django looks at `if self.pool` in several methods and then acts on psycopg_pool's; each of
    those is overridden here or in the backend.
    """

    # What is known of `self.connection` while it is a pool's. The connection itself is held by
    # `self.connection` alone: whoever drops it frees its slot.
    _dbpool_loan: Loan | None = None
    _dbpool_owner: Owner | None = None
    _dbpool_reset: str | None = None  # the default of the option
    _dbpool_connecting = False
    _dbpool_chosen: Supplier | None = None  # who supplies the connection being taken
    _dbpool_known: tuple[Supplier, dict[str, Any]] | None = None  # its connection parameters
    # The supplier for these settings, and the settings it was looked up for.
    _dbpool_found: tuple[tuple[Any, ...], Supplier] | None = None

    def _dbpool_make(self) -> Supplier:
        """Make a pool for these settings; the backend knows how."""
        raise NotImplementedError

    def _dbpool_stamp(self) -> tuple[Any, ...]:
        """Return everything that tells one pool from another; cheap, it runs at each checkout.

        Settings are mutable and get mutated (the test runner renames databases in place), so a
        pool is never chosen by alias alone.
        """
        settings = self.settings_dict
        return (
            settings["NAME"],
            settings["USER"],
            settings["PASSWORD"],
            settings["HOST"],
            settings["PORT"],
            settings["CONN_MAX_AGE"],
            settings["OPTIONS"],
            self.timezone_name,
            self.timezone,
        )

    @property
    def pool(self) -> ConnectionPool | None:
        """The pool that serves these settings; None where pooling is off."""
        supplier = self._dbpool_supplier()
        return None if supplier is None else supplier.pool

    def _dbpool_supplier(self) -> Supplier | None:
        found = self._dbpool_found
        if found is not None and found[0] == self._dbpool_stamp() and not found[1].pool.closed:
            return found[1]
        if not self._dbpool_is_wanted():
            return None
        stamp = tuple(map(_settings.copied, self._dbpool_stamp()))
        supplier = pools.supplier_for(self)
        self._dbpool_found = stamp, supplier
        return supplier

    def _dbpool_is_wanted(self) -> bool:
        return self.alias != NO_DB_ALIAS and _settings.wants_pool(self.settings_dict)

    def close_pool(self) -> None:
        """Close the pools of this alias. The next query makes a new one."""
        pools.close_alias(self.alias)

    def get_connection_params(self) -> dict[str, Any]:
        """Return what Django passes to the driver; `OPTIONS["pool"]` is not part of it."""
        chosen = self._dbpool_chosen
        if chosen is None:
            return self._dbpool_parameters()
        # Taking a connection needs none, but a subclass may look at them, and Django's for SQLite
        # keeps one on the wrapper: they are built once for each pool that this wrapper uses.
        known = self._dbpool_known
        if known is None or known[0] is not chosen:
            known = self._dbpool_known = chosen, self._dbpool_parameters()
        return known[1].copy()

    def _dbpool_parameters(self) -> dict[str, Any]:
        settings = self.settings_dict
        if "pool" not in settings["OPTIONS"]:
            return super().get_connection_params()
        options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
        # For this call only: everybody else must go on seeing the same object.
        self.settings_dict = {**settings, "OPTIONS": options}
        try:
            return super().get_connection_params()
        finally:
            self.settings_dict = settings

    def connect(self) -> None:
        """Take a connection; `close_old_connections` at the request's end gives it back."""
        self._dbpool_chosen = self._dbpool_supplier()
        self._dbpool_connecting = True
        try:
            super().connect()
        finally:
            self._dbpool_connecting = False
            self._dbpool_chosen = None
        if self._dbpool_loan is not None:
            self.close_at = time.monotonic()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return the driver's own connection object, out of the pool where there is one."""
        # Django's decorator for async code is on connect(), which alone calls this.
        self._dbpool_loan = None
        supplier = self._dbpool_chosen
        if supplier is None:
            return super().get_new_connection(conn_params)
        thread = threading.current_thread()
        owner = self._dbpool_owner
        if owner is None or not owner.is_thread(thread):
            owner = self._dbpool_owner = Owner(self, thread)
            _know(self)
        while True:
            try:
                conn = supplier.pool.getconn()
                break
            except PoolClosed:
                # close_pool() came in between: the next generation serves this caller.
                self._dbpool_chosen = None
                successor = self._dbpool_supplier()
                if successor is None or successor is supplier:
                    raise
                supplier = successor
        supplier.pool.own(conn, owner)
        self._dbpool_loan = Loan(supplier)
        return conn

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor that ends with this loan of the connection."""
        cursor = super().create_cursor(name)
        loan = self._dbpool_loan
        if loan is not None:
            loan.add_cursor(cursor)
            if name and self.connection.autocommit:  # Django makes it WITH HOLD then
                loan.holdable.add(name)
        return cursor

    @cached_property
    def wrap_database_errors(self) -> DatabaseErrorWrapper:
        """Django's, which turns the driver's errors into its own; they are judged before."""
        return _ErrorWrapper(self)

    def _dbpool_note_error(self, error: BaseException) -> None:
        loan, conn = self._dbpool_loan, self.connection
        if (
            loan is not None and conn is not None and isinstance(error, self.Database.Error)  # type: ignore[attr-defined]
        ):
            loan.note_error(conn, error)

    def _close(self) -> None:
        """Give the connection back; in an atomic block too, where the pool rolls it back."""
        loan, self._dbpool_loan = self._dbpool_loan, None
        conn = self.connection
        if loan is None or conn is None:
            super()._close()  # type: ignore[misc]
            return
        self.connection = None
        with self.wrap_database_errors:
            try:
                loan.give_back(
                    conn, self.errors_occurred, always_open=not self.settings_dict["AUTOCOMMIT"]
                )
            except ValueError:
                # Not lent any more: taken back from a thread that had ended, or not ours at all
                # because somebody has set `connection.connection`. Nobody else will close it.
                conn.close()

    def _commit(self) -> None:
        asks = self._dbpool_ends_transaction()
        super()._commit()  # type: ignore[misc]
        if asks is not None:
            asks.pool.proved()

    def _rollback(self) -> None:
        asks = self._dbpool_ends_transaction()
        super()._rollback()  # type: ignore[misc]
        if asks is not None:
            asks.pool.proved()

    def _dbpool_ends_transaction(self) -> Supplier | None:
        """Return whose server is to be asked now; an answer spares a health check its question.

        No driver asks the server to end a transaction that no statement has begun.
        """
        loan, conn = self._dbpool_loan, self.connection
        if loan is None or conn is None:
            return None
        idle = loan.supplier.opener.transaction_status(conn) == IDLE
        return None if idle else loan.supplier

    def set_autocommit(self, autocommit: bool, *args: Any, **kwargs: Any) -> None:
        """Begin or end transactions; Django does this at the end of each atomic block."""
        if autocommit and self._dbpool_connecting and self._dbpool_loan is not None:
            self.autocommit = True  # as every connection is that comes out of the pool
            self.run_commit_hooks_on_set_autocommit_on = False
            return
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
            and not loan.is_pinned
            and not (loan.supplier.resets and loan.supplier.opener.has_drifted(self.connection))
            and loan.supplier.opener.transaction_status(self.connection) == IDLE
        ):
            self.close()

    def close_if_health_check_failed(self) -> None:
        """Do nothing where the pool has looked already."""
        if self._dbpool_loan is None and self.connection is not None:
            super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """Give back what is held; Django's own would ask the server first after an error."""
        if self._dbpool_loan is None:
            super().close_if_unusable_or_obsolete()
        elif self.connection is not None:
            self.close()

    def _dbpool_start_in_child(self) -> None:
        """Let go of a connection that is the parent process's; the pool has cut it off already."""
        if self._dbpool_loan is None:
            return
        self._dbpool_loan = self._dbpool_owner = None
        self.connection = None
        self.run_on_commit = []
        if self.in_atomic_block:  # as if closed in it: no query until the block has ended
            self.closed_in_transaction = True
            self.needs_rollback = True


class _ErrorWrapper(DatabaseErrorWrapper):
    wrapper: PooledWrapper

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if exc_type is not None:
            self.wrapper._dbpool_note_error(exc_value)
            super().__exit__(exc_type, exc_value, traceback)


# Wrappers that have ever leased, by id. A plain dict: a fork can come between any two operations.
_live: dict[int, weakref.ref[PooledWrapper]] = {}


def _know(wrapper: PooledWrapper) -> None:
    key = id(wrapper)

    def forget(ref: weakref.ref[PooledWrapper]) -> None:
        if _live.get(key) is ref:
            del _live[key]

    _live[key] = weakref.ref(wrapper, forget)


def _start_in_child() -> None:
    for ref in list(_live.values()):
        wrapper = ref()
        if wrapper is not None:
            wrapper._dbpool_start_in_child()


_fork.on_child(_start_in_child)
