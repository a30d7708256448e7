"""Fences for leases that want to know of each use (see `_late`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ._fence import FencedConnection, FencedCursor

__all__ = ["WatchedConnection"]

T = TypeVar("T")


class WatchedCursor(FencedCursor):
    """A cursor that tells its lease before and after each use."""

    __slots__ = ()

    def _use(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        lease = self._lease
        lease.enter()
        try:
            return call(*args, **kwargs)
        finally:
            lease.leave()

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a statement, with the driver's arguments and result."""
        return self._use(super().execute, *args, **kwargs)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._use(super().fetchone)

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next rows."""
        return self._use(super().fetchmany, *args, **kwargs)

    def fetchall(self) -> Any:
        """Return the remaining rows."""
        return self._use(super().fetchall)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._use(super()._call, name, *args, **kwargs)

    def __next__(self) -> Any:
        return self._use(super().__next__)

    def _rows(self) -> Iterator[Any]:
        rows = super()._rows()
        end = object()
        while (row := self._use(next, rows, end)) is not end:
            yield row


class WatchedConnection(FencedConnection):
    """A connection that tells its lease before and after each use."""

    __slots__ = ()

    _cursor_type = WatchedCursor

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        lease = self._lease
        lease.enter()
        try:
            return super()._call(name, *args, **kwargs)
        finally:
            lease.leave()
