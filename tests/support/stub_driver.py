"""A driver without a database, for faults that no server can be made to show on command."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from dbpool.drivers.base import IDLE, INTRANS, REASONS, UNKNOWN, Driver

__all__ = ["StubConnection", "StubDriver", "StubError"]


class StubError(Exception):
    """What the stub raises where a driver would raise its OperationalError."""


class StubConnection:
    """A connection that remembers what was done to it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False
        self.status = IDLE
        self.setting = "default"
        self.alive = True


class StubDriver(Driver):
    """A driver for which every step calls a hook that a test may replace.

    `hooks["connect" | "close" | "ping" | "rollback" | "commit" | "restore"]` is called with the
    connection (connect: with None) and may sleep, wait or raise.
    """

    name = "stub"
    OperationalError: type[Exception] = StubError

    def __init__(self) -> None:
        self.hooks: dict[str, Callable[[Any], object]] = {}
        self.made: list[_Remembered] = []
        self._lock = threading.Lock()

    def _hook(self, name: str, conn: StubConnection | None) -> None:
        if name in self.hooks:
            self.hooks[name](conn)

    @property
    def open_connections(self) -> int:
        return sum(not conn.closed for conn in self.made)

    def check_conninfo(self, conninfo: str) -> None:
        pass

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> StubConnection:
        self._hook("connect", None)
        with self._lock:
            conn = StubConnection(len(self.made) + 1)
            self.made.append(_Remembered(conn))
        return conn

    def close(self, conn: StubConnection) -> None:
        self._hook("close", conn)
        conn.closed = True

    def fileno(self, conn: StubConnection) -> int | None:
        return None

    def transaction_status(self, conn: StubConnection) -> int:
        return UNKNOWN if conn.closed else conn.status

    def attributes(self, conn: StubConnection) -> Any:
        return conn.setting

    def settled(self, conn: StubConnection, attributes: Any) -> bool:
        return not conn.closed and conn.status == IDLE and conn.setting == attributes

    def restore(self, conn: StubConnection, attributes: Any) -> None:
        self._hook("restore", conn)
        conn.setting = attributes

    def commit(self, conn: StubConnection) -> None:
        self._hook("commit", conn)
        conn.status = IDLE

    def rollback(self, conn: StubConnection) -> None:
        self._hook("rollback", conn)
        conn.status = IDLE

    def discard_session(self, conn: StubConnection) -> None:
        conn.setting = "default"

    def ping(self, conn: StubConnection) -> None:
        self._hook("ping", conn)
        if not conn.alive or conn.closed:
            raise StubError("dead")

    def probe(self, conn: StubConnection) -> bool:
        self.ping(conn)
        return True

    def reason(self, error: BaseException) -> str:
        return str(error) if str(error) in REASONS else "connect_failed"

    def is_disconnect(self, conn: StubConnection, error: BaseException) -> bool:
        return conn.closed or not conn.alive

    @staticmethod
    def begin(conn: StubConnection) -> None:
        """What a borrower's first statement does."""
        conn.status = INTRANS


class _Remembered:
    """What the driver keeps of a connection: its number and state, not the connection itself."""

    def __init__(self, conn: StubConnection) -> None:
        self.number = conn.number
        self._ref = weakref.ref(conn)

    @property
    def closed(self) -> bool:
        conn = self._ref()
        return conn is None or conn.closed
