"""A database wrapper of Django's whose connections come from a pool.

Taken at the first query, given back by `close()`, which Django calls at the end of each request.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.utils.asyncio import async_unsafe

from dbpool import ConnectionPool, PoolClosed, _fork

from . import _settings, pools
from ._owner import Owner

__all__ = ["PooledWrapper"]


class PooledWrapper(BaseDatabaseWrapper):
    """What a pooled backend puts before Django's own wrapper class.

    Django looks at `if self.pool` in several methods and then acts on psycopg_pool's; each of
    those is overridden here or in the backend.
    """

    # The pool that lent `self.connection`; None if that is no pool's. The connection itself is
    # held by `self.connection` alone: whoever drops it frees its slot.
    _dbpool_lender: ConnectionPool | None = None
    _dbpool_owner: Owner | None = None
    _dbpool_cursors: list[weakref.ref[Any]]
    # The pool for these settings, and the settings it was looked up for.
    _dbpool_found: tuple[tuple[Any, ...], ConnectionPool] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dbpool_cursors = []

    def _dbpool_make(self) -> ConnectionPool:
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
        if self.alias == NO_DB_ALIAS or not _settings.wants_pool(self.settings_dict):
            return None
        stamp = self._dbpool_stamp()
        found = self._dbpool_found
        if found is not None and found[0] == stamp and not found[1].closed:
            return found[1]
        pool = pools.pool_for(self)
        self._dbpool_found = tuple(_settings.copied(part) for part in stamp), pool
        return pool

    def close_pool(self) -> None:
        """Close the pools of this alias. The next query makes a new one."""
        pools.close_alias(self.alias)

    def connect(self) -> None:
        """Take a connection; `close_old_connections` at the request's end gives it back."""
        super().connect()
        if self._dbpool_lender is not None:
            self.close_at = time.monotonic()

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return the driver's own connection object, out of the pool where there is one."""
        pool = self.pool
        if pool is None:
            self._dbpool_lender = None
            return super().get_new_connection(conn_params)
        thread = threading.current_thread()
        owner = self._dbpool_owner
        if owner is None or not owner.is_thread(thread):
            owner = self._dbpool_owner = Owner(self, thread)
            _know(self)
        while True:
            try:
                conn = pool.getconn()
                break
            except PoolClosed:
                # close_pool() came in between: the next generation serves this caller.
                successor = self.pool
                if successor is None or successor is pool:
                    raise
                pool = successor
        pool.own(conn, owner)
        self._dbpool_lender = pool
        return conn

    @async_unsafe
    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor that ends with this loan of the connection."""
        cursor = super().create_cursor(name)
        if self._dbpool_lender is not None:
            cursors = self._dbpool_cursors
            if len(cursors) >= 100:
                cursors[:] = [ref for ref in cursors if ref() is not None]
            cursors.append(weakref.ref(cursor))
        return cursor

    def _dbpool_close_cursors(self) -> None:
        # One that is still in somebody's hands would reach into the next borrower's session.
        cursors = self._dbpool_cursors
        while cursors:
            cursor = cursors.pop()()
            if cursor is not None and not cursor.closed:
                try:
                    cursor.close()
                except self.Database.Error:  # type: ignore[attr-defined]
                    pass  # a cursor of the server's, in a session that has ended

    def _close(self) -> None:
        """Give the connection back; in an atomic block too, where the pool rolls it back."""
        pool, self._dbpool_lender = self._dbpool_lender, None
        conn = self.connection
        if pool is None or conn is None:
            super()._close()  # type: ignore[misc]
            return
        self.connection = None
        with self.wrap_database_errors:
            self._dbpool_close_cursors()
            try:
                pool.putconn(conn, self._dbpool_is_broken(pool, conn))
            except ValueError:
                # Not lent any more: taken back from a thread that had ended, or not ours at all
                # because somebody has set `connection.connection`. Nobody else will close it.
                conn.close()

    def _dbpool_is_broken(self, pool: ConnectionPool, conn: Any) -> bool:
        # Django notes that errors occurred, not which: one that ended the session shows in it.
        return self.errors_occurred and pool.driver.is_disconnect(conn, Exception())

    def close_if_health_check_failed(self) -> None:
        """Do nothing where the pool has looked already."""
        if self._dbpool_lender is None and self.connection is not None:
            super().close_if_health_check_failed()

    def close_if_unusable_or_obsolete(self) -> None:
        """Give back what is held; Django's own would ask the server first after an error."""
        if self._dbpool_lender is None:
            super().close_if_unusable_or_obsolete()
        elif self.connection is not None:
            self.close()

    def _dbpool_start_in_child(self) -> None:
        """Let go of a connection that is the parent process's; the pool has cut it off already."""
        if self._dbpool_lender is None:
            return
        self._dbpool_lender = self._dbpool_owner = None
        self._dbpool_cursors = []
        self.connection = None
        self.run_on_commit = []
        if self.in_atomic_block:  # as if closed in it: no query until the block has ended
            self.closed_in_transaction = True
            self.needs_rollback = True


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
