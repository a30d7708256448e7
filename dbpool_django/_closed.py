"""What a wrapper has for a connection between a close() inside an atomic block and the block's end.

Django keeps the closed connection there, so that queries fail with the driver's own error for one
that is closed. Ours has gone back to its pool, open, and something else has to fail for it.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["ClosedConnection"]


class ClosedConnection:
    """A connection that is closed: whatever is asked of it raises the driver's error for that."""

    closed = 1
    autocommit = False

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._error.with_traceback(None)

    def close(self) -> None:
        """Do nothing, as the drivers' own."""
