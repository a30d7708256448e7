"""Methods of Django's wrapper that run at each query, with less around them.

They do what Django's do. Each of those that may not be called in async code raises and catches an
exception to find out that there is none, and each query has four of them around it; here a look
without an exception comes first. That, and no more locks than needed, pays for a pool.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from threading import get_ident
from types import FunctionType, MethodType
from typing import Any

from django.apps import apps
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.asyncio import async_unsafe

from dbpool.adapters import start_anew, unforked

__all__ = ["LeanWrapper", "connects_by_djangos", "unguarded"]

_GUARDED = async_unsafe(len).__code__  # of each method that Django keeps out of async code


def _is_guarded(function: Any) -> bool:
    # A tool's proxy shows the code of what it stands for, but is no function.
    return type(function) is FunctionType and function.__code__ is _GUARDED


def connects_by_djangos() -> bool:
    """Return whether connecting is left to Django's own connect().

    In async code, which it refuses, and where a tool that watches it has put its own in its place.
    """
    return not _is_guarded(BaseDatabaseWrapper.connect) or _get_running_loop() is not None


def unguarded(method: Any) -> Any:
    """Return a bound method without Django's guard, where that has nothing to refuse."""
    if type(method) is MethodType and _is_guarded(method.__func__) and _get_running_loop() is None:
        return MethodType(method.__func__.__wrapped__, method.__self__)  # type: ignore[attr-defined]
    return method


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
        unforked or start_anew()
        if self.health_check_enabled:
            self.close_if_health_check_failed()
        # Always, and Django's: test tools forbid queries in its place.
        unguarded(self.ensure_connection)()
        try:
            return self._prepare_cursor(self._dbpool_cursor(name))  # type: ignore[attr-defined]
        except Exception:
            with self.wrap_database_errors:
                raise

    def _dbpool_cursor(self, name: str | None) -> Any:
        """Return a cursor of the driver's, whichever class of a project's makes it."""
        return unguarded(self.create_cursor)(name)

    def make_cursor(self, cursor: Any) -> Any:
        """Return Django's wrapper of a cursor of the driver's."""
        return LeanCursor(cursor, self)

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
        unforked or start_anew()
        if self.db.needs_rollback or not apps.ready:
            return super()._execute(sql, params, *ignored)  # type: ignore[misc]
        try:
            if params is None:
                return self.cursor.execute(sql)
            return self.cursor.execute(sql, params)
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def close(self) -> None:
        """Close the driver's cursor; here it need not be looked for as an attribute of that."""
        unforked or start_anew()
        self.cursor.close()

    def fetchone(self) -> Any:
        unforked or start_anew()
        try:
            return self.cursor.fetchone()
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        unforked or start_anew()
        try:
            return self.cursor.fetchmany(*args, **kwargs)
        except Exception:
            with self.db.wrap_database_errors:
                raise

    def fetchall(self) -> Any:
        unforked or start_anew()
        try:
            return self.cursor.fetchall()
        except Exception:
            with self.db.wrap_database_errors:
                raise
