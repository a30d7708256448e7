"""A psycopg2 connection that knows which of its settings somebody has touched.

Reading the attributes that a borrower may change takes half of what a return costs. Here each call
that can change one leaves a mark, and only a connection with marks is read. To its users it is
what psycopg2 makes: of a subclass that adds nothing public, and no dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg2 import extensions

from ._in_step import InStepConnection
from .base import IDLE, bare

__all__ = [
    "CLOSED_IDLE",
    "UNTRACKED",
    "TrackedConnection",
    "marks_of",
    "replace_close",
    "unchanged",
]

# The marks of a connection whose class is the user's own: it is read at each return.
UNTRACKED = frozenset(("untracked",))

CLOSED_IDLE = "closed, with no transaction open"

_plain = extensions.connection


class TrackedConnection(_plain):
    """As psycopg2's own; what goes past its methods (`object.__setattr__`) leaves no mark."""

    __slots__ = ("_dbpool_close", "_dbpool_marks")

    _dbpool_close: Callable[[], object] | None
    _dbpool_marks: set[str]

    cursor = InStepConnection.cursor  # not by inheritance: see what it is to its users
    lobject = InStepConnection.lobject

    def __new__(cls, *args: Any, **kwargs: Any) -> TrackedConnection:
        self = _plain.__new__(cls, *args, **kwargs)
        _plain.__setattr__(self, "_dbpool_marks", {"__new__"})
        _plain.__setattr__(self, "_dbpool_close", None)
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._dbpool_marks.add("__init__")
        _plain.__init__(self, *args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        self._dbpool_marks.add(name)
        _plain.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._dbpool_marks.add(name)
        _plain.__delattr__(self, name)

    def set_session(self, *args: Any, **kwargs: Any) -> None:
        """As psycopg2's own."""
        self._dbpool_marks.add("set_session")
        _plain.set_session(self, *args, **kwargs)

    def set_isolation_level(self, *args: Any, **kwargs: Any) -> None:
        """As psycopg2's own."""
        self._dbpool_marks.add("set_isolation_level")
        _plain.set_isolation_level(self, *args, **kwargs)

    def set_client_encoding(self, *args: Any, **kwargs: Any) -> None:
        """As psycopg2's own."""
        self._dbpool_marks.add("set_client_encoding")
        _plain.set_client_encoding(self, *args, **kwargs)

    def close(self) -> None:
        """As psycopg2's own."""
        if self._dbpool_close is not None:
            self._dbpool_close()
            return
        if self.get_transaction_status() == IDLE:  # afterwards it is UNKNOWN in any case
            self._dbpool_marks.add(CLOSED_IDLE)
        _plain.close(self)

    def reset(self) -> None:
        """As psycopg2's own."""
        self._dbpool_marks.add("reset")
        _plain.reset(self)


# What CPython writes into errors ("... object has no attribute ...").
TrackedConnection.__name__ = "psycopg2.extensions.connection"


def replace_close(conn: Any, call: Callable[[], object] | None) -> bool:
    """Have its close() call this instead, None for itself again. False for another class."""
    if type(conn) is not TrackedConnection:
        return False
    _plain.__setattr__(conn, "_dbpool_close", call)
    return True


def marks_of(conn: Any) -> set[str] | frozenset[str]:
    """Return the set of marks that stays the connection's own for as long as it lives."""
    conn = bare(conn)
    return conn._dbpool_marks if type(conn) is TrackedConnection else UNTRACKED


def unchanged(conn: Any, attributes: tuple[Any, ...], marks: Any) -> bool:
    """Read whether the connection's attributes are those; take off the marks if they are."""
    if marks is not UNTRACKED:
        marks.clear()  # before reading: what is set meanwhile leaves its mark
    if (
        conn.autocommit is attributes[0]
        and conn.isolation_level is attributes[1]
        and conn.readonly is attributes[2]
        and conn.deferrable is attributes[3]
        and conn.cursor_factory is attributes[4]
        and conn.notices is attributes[5]
        and conn.encoding == attributes[8]
        and conn.notifies is attributes[9]
    ):
        return True
    if marks is not UNTRACKED:
        marks.add("changed")
    return False
