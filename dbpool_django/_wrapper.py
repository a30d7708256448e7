"""A database wrapper of Django's whose connections come from a pool.

Taken at the first query, given back by `close()`, which Django calls at the end of each request.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from threading import current_thread, get_ident
from typing import Any
from weakref import ref

from django.db.backends.base.base import NO_DB_ALIAS, RAN_DB_VERSION_CHECK
from django.db.backends.signals import connection_created
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from dbpool import ConnectionPool, PoolClosed
from dbpool.adapters import forget_locals, monotonic, start_anew, unforked

from . import _requests, _settings, pools
from ._closed import ClosedConnection
from ._errors import ErrorWrapper
from ._lean import LeanWrapper, connects_by_djangos, unguarded
from ._loan import Loan, Supplier
from ._owner import Owner
from ._transactions import TransactionEnds

__all__ = ["PooledWrapper"]


def _is_known(method: Any) -> bool:
    """Return whether a method of a wrapper's class is Django's or ours, not the project's own."""
    return str(method.__module__).startswith(("dbpool_django.", "django."))


class PooledWrapper(TransactionEnds, LeanWrapper):
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
    _dbpool_is_plain = True  # no class of the project's own has a part in taking a connection
    _dbpool_reads_parameters = False  # one takes connections by what a connect is made with
    # Whether one has a part in how connections are made: it may do so by settings of its own.
    _dbpool_connects_itself = False
    # The stamp that a supplier was looked up for, and the supplier.
    _dbpool_found: tuple[tuple[Any, ...], Supplier] | None = None

    isolation_level: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        taking = (cls.get_new_connection, cls.init_connection_state)
        cls._dbpool_is_plain = all(map(_is_known, taking))
        cls._dbpool_reads_parameters = not _is_known(cls.get_new_connection)
        making = (*taking, cls.get_connection_params, cls.connect)
        cls._dbpool_connects_itself = not all(map(_is_known, making))

    def _dbpool_make(self) -> Supplier:
        """Make a pool for these settings; the backend knows how."""
        raise NotImplementedError

    def _dbpool_stamp(self) -> tuple[Any, ...]:
        """Return everything that tells one pool from another.

        Settings get mutated (the test runner renames databases): the alias alone tells nothing.
        """
        stamp = (*_settings.connected_by(self.settings_dict), self.timezone_name, self.timezone)
        if self._dbpool_connects_itself:
            return (*stamp, _settings.others(self.settings_dict))
        return stamp

    @property
    def pool(self) -> ConnectionPool | None:
        """The pool that serves these settings; None where pooling is off."""
        supplier = self._dbpool_supplier()
        if supplier is not None and supplier.pool.closed:
            supplier = self._dbpool_successor()
        return None if supplier is None else supplier.pool

    def _dbpool_supplier(self) -> Supplier | None:
        """Return who supplies a wrapper with these settings, maybe with a pool closed meanwhile."""
        # Nothing of it in a local variable: an error's frames are shown, with the password.
        if self._dbpool_found is not None and self._dbpool_found[0] == self._dbpool_stamp():
            return self._dbpool_found[1]
        return self._dbpool_successor()

    def _dbpool_successor(self) -> Supplier | None:
        """Return who supplies a wrapper with these settings now."""
        self._dbpool_found = None
        if not self._dbpool_is_wanted():
            return None
        try:
            self._dbpool_found = found = self._dbpool_find()
        except Exception as error:
            forget_locals(error)
            raise
        return found[1]

    def _dbpool_find(self) -> tuple[tuple[Any, ...], Supplier]:
        stamp = _settings.copied(self._dbpool_stamp())
        supplier = pools.supplier_for(self)
        self._dbpool_settle()
        return stamp, supplier

    def _dbpool_settle(self) -> None:
        """Take from the settings what Django's own class does when it connects."""

    def _dbpool_is_wanted(self) -> bool:
        return self.alias != NO_DB_ALIAS and _settings.wants_pool(self.settings_dict)

    def close_pool(self) -> None:
        """Close the pools of this alias. The next query makes a new one."""
        pools.close_alias(self.alias)

    def get_connection_params(self) -> dict[str, Any]:
        """Return what Django passes to the driver; `OPTIONS["pool"]` is not part of it."""
        return self._dbpool_parameters()

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
        """Take a connection; `close_old_connections` at the request's end gives it back.

        Does to the wrapper all that Django's own does; to the connection, what is not done yet.
        """
        supplier = self._dbpool_supplier()
        if supplier is None or not supplier.is_plain or connects_by_djangos():
            self._dbpool_connect_as_django(supplier)
            return
        # No local variable for the settings: an error's frames are shown, and the password with it.
        if self.settings_dict["TIME_ZONE"] is not None:
            self.check_settings()
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        self.health_check_enabled = self.settings_dict["CONN_HEALTH_CHECKS"]
        # At once: without an age Django never looks, and no connection would go back.
        self.close_at = monotonic()
        self.closed_in_transaction = False
        self.errors_occurred = False
        self.health_check_done = True
        self._dbpool_connecting = True
        try:
            self.connection = self._dbpool_take(supplier)
            if self.settings_dict["AUTOCOMMIT"]:
                self.autocommit = True  # as every connection is that comes out of the pool
                self.run_commit_hooks_on_set_autocommit_on = False
            else:
                self.set_autocommit(False)
            # With reset="auto" each connection comes with its zone; else somebody's may be left.
            if not supplier.resets or self.alias not in RAN_DB_VERSION_CHECK:
                self.init_connection_state()
            if connection_created.receivers:
                connection_created.send(sender=self.__class__, connection=self)
        finally:
            self._dbpool_connecting = False
        self.run_on_commit = []

    def _dbpool_connect_as_django(self, supplier: Supplier | None) -> None:
        self._dbpool_chosen = supplier
        self._dbpool_connecting = True
        if supplier is not None and not self._dbpool_reads_parameters:
            # Django asks for what to connect with, and the project's class may fetch a token for
            # that; but nobody connects here.
            self.__dict__["get_connection_params"] = dict
        try:
            super().connect()
        except Exception as error:
            if supplier is not None:  # Django's own frames hold the parameters
                forget_locals(error)
            raise
        finally:
            self.__dict__.pop("get_connection_params", None)
            self._dbpool_connecting = False
            self._dbpool_chosen = None
        if self._dbpool_loan is not None:
            self.close_at = monotonic()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return the driver's own connection object, out of the pool where there is one."""
        self.__dict__.pop("get_connection_params", None)
        self._dbpool_loan = None
        supplier = self._dbpool_chosen
        if supplier is None:
            return super().get_new_connection(conn_params)
        return self._dbpool_take(supplier)

    def _dbpool_take(self, supplier: Supplier) -> Any:
        self._dbpool_loan = None  # of a connection that somebody has dropped without close()
        thread = current_thread()
        owner = self._dbpool_owner
        if owner is None or owner.thread() is not thread:
            owner = self._dbpool_owner = Owner(self, thread)
        while True:
            try:
                conn = supplier.pool.getconn()
                break
            except PoolClosed:
                # close_pool() came in between: the next generation serves this caller.
                successor = self._dbpool_successor()
                if successor is None or successor is supplier:
                    raise
                supplier = successor
        supplier.pool.own(conn, owner)
        self._dbpool_loan = Loan(supplier)
        if _requests.sending:
            _requests.took(self)
        self.isolation_level = supplier.isolation_level
        return conn

    def _dbpool_cursor(self, name: str | None) -> Any:
        """Return a cursor that ends with this loan of the connection, whoever makes it."""
        loan = self._dbpool_loan
        if loan is None and type(self.connection) is ClosedConnection:
            self.connection.cursor()  # raises, before psycopg has made half a server-side cursor
        cursor = unguarded(self.create_cursor)(name)
        if loan is not None:
            if loan.cursors is None:  # the ordinary case, without a call
                loan.cursors = [ref(cursor)]
            else:
                loan.track(cursor)
        return cursor

    @cached_property
    def wrap_database_errors(self) -> DatabaseErrorWrapper:
        """Django's, which turns the driver's errors into its own; they are judged before."""
        return ErrorWrapper(self)

    def _dbpool_note_error(self, error: BaseException) -> None:
        loan, conn = self._dbpool_loan, self.connection
        if (
            loan is not None and conn is not None and isinstance(error, self.Database.Error)  # type: ignore[attr-defined]
        ):
            loan.note_error(conn, error)

    def close(self) -> None:
        """Give the connection back, whatever is open; without one, do what Django does."""
        unforked or start_anew()
        if (
            self._dbpool_loan is None
            or self.in_atomic_block
            or self.closed_in_transaction
            or _get_running_loop() is not None
        ):
            super().close()
            return
        self.validate_thread_sharing()
        self.run_on_commit = []
        self._close()

    def _close(self) -> None:
        """Give the connection back; in an atomic block too, where the pool rolls it back."""
        unforked or start_anew()
        loan, self._dbpool_loan = self._dbpool_loan, None
        conn = self.connection
        if loan is None or conn is None:
            if not isinstance(conn, ClosedConnection):
                super()._close()  # type: ignore[misc]
            return
        self.connection = None
        if self.in_atomic_block:  # until that ends, as Django has it
            self.connection = ClosedConnection(self._dbpool_closed_error())
        try:
            loan.end(conn, self.errors_occurred, always_open=not self.settings_dict["AUTOCOMMIT"])
        except Exception as error:
            with self.wrap_database_errors:
                if not isinstance(error, ValueError):
                    raise
                # Not lent any more: taken back from a thread that had ended, or not ours at all
                # because somebody has set `connection.connection`. Nobody else will close it.
                conn.close()

    def close_if_health_check_failed(self) -> None:
        """Do nothing where the pool has looked already."""
        if self._dbpool_loan is None and self.connection is not None:
            super().close_if_health_check_failed()

    def _dbpool_closed_error(self) -> Exception:
        """Return the driver's error for a connection that is closed; the backend knows it."""
        return self.Database.InterfaceError("connection already closed")  # type: ignore[attr-defined,no-any-return]

    def close_if_unusable_or_obsolete(self) -> None:
        """Give back what is held; Django's own would ask the server first after an error."""
        unforked or start_anew()
        if self.connection is None:
            return
        if self._dbpool_loan is None:
            super().close_if_unusable_or_obsolete()
        else:
            self.close()

    def _dbpool_start_in_child(self) -> None:
        """Let go of a connection that is the parent process's; the pool has cut it off already.

        By `close()`, as anybody else does: a backend that remembers what it has set on the
        connection (django-tenants and its search_path) forgets it there.
        """
        if self._dbpool_loan is None:
            return
        self._dbpool_loan = self._dbpool_owner = None
        self.connection = ClosedConnection(self._dbpool_closed_error())
        # Whichever thread finds out that there was a fork: nobody uses the wrapper just now.
        thread, self._thread_ident = self._thread_ident, get_ident()
        try:
            self.close()
        finally:
            self._thread_ident = thread
            self.connection = None
            self.run_on_commit = []
            if self.in_atomic_block:  # as if closed in it: no query until the block has ended
                self.closed_in_transaction = True
                self.needs_rollback = True


_requests.watch()
