"""A limit to what an operation on one connection may take."""

from __future__ import annotations

from typing import Any, Protocol

from .clock import monotonic
from .scheduler import keeper

__all__ = ["Bounded", "TimeLimit"]

_AGAIN = 0.05  # seconds after which what is cancelled, not cut, is cancelled again


class Bounded(Protocol):
    """The driver of a connection, as far as it is needed here."""

    def cut_off(self, conn: Any) -> bool:
        """End what runs on it. Returns whether that has to be done again while it runs."""


class TimeLimit:
    """`with TimeLimit(driver, conn, seconds):` what runs inside ends by then, if only by an error.

    At the deadline the connection's socket is shut down from the keeper's thread, and the call
    that is blocked in it raises. Never by `close()` from there, which waits for the connection's
    lock, nor by `cancel()`, which holds the GIL while the network is dead. Where there is no
    socket (SQLite) the driver's canceller ends the statement that runs, and the next ones too. A
    pool that may use no thread (background=False) has nobody to do that: there the kernel's
    timeouts must do, and `watched` is False.

    Raises TimeoutError where what ran inside was late and noticed nothing (a check that does other
    things than to ask the server): the connection is cut off all the same.
    """

    __slots__ = ("__weakref__", "_conn", "_driver", "_seconds", "_watched", "deadline", "fired")

    def __init__(self, driver: Bounded, conn: Any, seconds: float, *, watched: bool = True) -> None:
        self._driver = driver
        self._watched = watched
        self._conn = conn
        self._seconds = seconds
        self.deadline = monotonic() + seconds
        self.fired = False

    def __enter__(self) -> TimeLimit:
        if self._watched:
            keeper.arm(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if self._watched:
            keeper.disarm(self)
        if self.fired and kind is None:
            raise TimeoutError(f"not done within {self._seconds:g} s: the connection is cut off")

    def fire(self) -> None:
        """Cut the connection; called by the keeper, under the lock that disarming takes."""
        self.fired = True
        if self._driver.cut_off(self._conn):
            self.deadline = monotonic() + _AGAIN
