"""Cursors that notice what a statement leaves behind in the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.backends import utils
from django.db.backends.postgresql import base

from ._session import changes_session

__all__ = ["NoticingCursor", "NoticingDebugCursor"]


# Not one of `connection.execute_wrappers`: that list is the project's own, and Django's
# `execute_wrapper()` takes the last entry off it, whosever it is.
class _Noticing:
    cursor: Any
    db: Any
    execute: Callable[..., Any]

    def _dbpool_notice(self, sql: Any) -> None:
        loan = self.db._dbpool_loan
        if loan is not None and not loan.changed:
            loan.changed = changes_session(sql, self.cursor)

    def callproc(self, procname: str, *args: Any, **kwargs: Any) -> Any:
        self._dbpool_notice(f"SELECT {procname}(")
        return super().callproc(procname, *args, **kwargs)  # type: ignore[misc]

    def _execute(self, sql: Any, *args: Any) -> Any:
        self._dbpool_notice(sql)
        return super()._execute(sql, *args)  # type: ignore[misc]

    def _executemany(self, sql: Any, *args: Any) -> Any:
        self._dbpool_notice(sql)
        return super()._executemany(sql, *args)  # type: ignore[misc]


class NoticingCursor(_Noticing, utils.CursorWrapper):
    """Django's cursor wrapper."""


class NoticingDebugCursor(_Noticing, base.CursorDebugWrapper):
    """Django's cursor wrapper for DEBUG."""
