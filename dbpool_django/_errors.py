"""Errors of the driver are judged before Django's take their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.utils import DatabaseErrorWrapper

if TYPE_CHECKING:
    from ._wrapper import PooledWrapper

__all__ = ["ErrorWrapper"]


class ErrorWrapper(DatabaseErrorWrapper):
    """Django's, which turns the driver's errors into its own."""

    wrapper: PooledWrapper

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if exc_type is not None:
            self.wrapper._dbpool_note_error(exc_value)
            super().__exit__(exc_type, exc_value, traceback)
