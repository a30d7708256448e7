"""Methods of Django's wrapper that run at each query, with less around them.

They do what Django's do. Each of those that may not be called in async code raises and catches an
exception to find out that there is none, and each query has four of them around it; here a look
without an exception comes first. That, and no more locks than needed, pays for a pool.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from threading import get_ident
from typing import Any

from django.apps import apps
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["LeanWrapper"]


class LeanWrapper(BaseDatabaseWrapper):
    """Goes before Django's own wrapper class."""

    _thread_ident: int  # which the stubs lack
    needs_rollback: bool
    health_check_enabled: bool

    def cursor(self) -> Any:
        """Return a cursor, connected if need be."""
        if _get_running_loop() is not None:
            return super().cursor()  # which refuses, unless it is told not to
        return self._cursor()

    def _cursor(self, name: str | None = None) -> Any:
        if self.health_check_enabled:
            self.close_if_health_check_failed()
        if self.connection is None:
            self.ensure_connection()
        try:
            return self._prepare_cursor(self.create_cursor(name))  # type: ignore[attr-defined]
        except Exception:
            with self.wrap_database_errors:
                raise

    def make_cursor(self, cursor: Any) -> Any:
        """Return Django's wrapper of a cursor of the driver's."""
        return LeanCursor(cursor, self)

    def ensure_connection(self) -> None:
        """Connect if there is no connection."""
        if _get_running_loop() is not None or (self.in_atomic_block and self.connection is None):
            super().ensure_connection()
        elif self.connection is None:
            try:
                self.connect()
            except Exception:
                with self.wrap_database_errors:
                    raise

    def validate_thread_sharing(self) -> None:
        """Raise DatabaseError in a thread that is neither the wrapper's nor allowed to use it."""
        if self._thread_ident != get_ident():
            super().validate_thread_sharing()


class LeanCursor(utils.CursorWrapper):
    """Django's cursor wrapper, without a context manager around each call of the driver's.

    Its execute() is Django's own: tools that watch queries put theirs in its place.
    """

    db: LeanWrapper

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        if self.db.needs_rollback or not apps.ready:
            return super()._execute(sql, params, *ignored)  # type: ignore[misc]
        try:
            if params is None:
                return self.cursor.execute(sql)
            return self.cursor.execute(sql, params)
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def fetchone(self) -> Any:
        try:
            return self.cursor.fetchone()
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.cursor.fetchmany(*args, **kwargs)
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def fetchall(self) -> Any:
        try:
            return self.cursor.fetchall()
        except Exception:
            with self.db.wrap_database_errors:
                raise
