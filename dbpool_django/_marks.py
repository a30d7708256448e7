"""What is known, without asking the server, of what borrowers have left in their sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbpool.drivers.base import IDLE, INTRANS

__all__ = ["Marks"]


class Marks:
    """For `reset="auto"`: the sessions of a pool that are not what the next borrower should find.

    By the id of their connection, which nobody but its borrower may keep alive. The borrower writes
    from one thread at a time, and each operation on a dict or a set is atomic: no lock.
    """

    def __init__(self) -> None:
        self._changed: set[int] = set()
        self._held: dict[int, set[str]] = {}

    def change(self, conn: Any) -> None:
        """A statement has changed the session."""
        self._changed.add(id(conn))

    def hold(self, conn: Any, name: str) -> None:
        """A cursor WITH HOLD was opened: dropped unclosed, it stays open on the server."""
        self._held.setdefault(id(conn), set()).add(name)

    def close(self, conn: Any, name: str, close: Callable[[], object]) -> None:
        """Call what closes a cursor, maybe one of those; raises what that raises.

        In a failed transaction the drivers send nothing, and the server's cursor stays open.
        """
        sends = conn.info.transaction_status in (IDLE, INTRANS)
        close()
        held = self._held.get(id(conn))
        if sends and held is not None:
            held.discard(name)
            if not held:
                del self._held[id(conn)]

    def forget(self, conn: Any) -> None:
        """The session is as it should be."""
        self._changed.discard(id(conn))
        self._held.pop(id(conn), None)

    def has(self, conn: Any) -> bool:
        """Return whether anything is known against the session."""
        key = id(conn)
        return key in self._changed or key in self._held
