"""A stub driver whose connections have sockets, so that its server can restart as a real one."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from tests.support.stub_driver import StubConnection, StubDriver, StubError

__all__ = ["Wire", "WiredDriver"]


class Wire(StubConnection):
    """A connection over a socket pair; its end closes with it, as a driver's does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        ours, self.server = socket.socketpair()
        self.fd: int | None = ours.detach()

    def hang_up(self) -> None:
        """Close our end."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)

    def server_ends(self) -> None:
        self.alive = False
        self.server.close()

    def __del__(self) -> None:
        self.hang_up()
        self.server.close()


class WiredDriver(StubDriver):
    """Remembers what was opened and closed, in order; `refusing` is why connecting fails."""

    name = "wired"

    def __init__(self) -> None:
        super().__init__()
        self.refusing = ""
        self.attempts = 0
        self.opened: list[int] = []
        self.closed: list[int] = []

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Wire:
        self._hook("connect", None)
        self.attempts += 1
        if self.refusing:
            raise StubError(self.refusing)
        conn = Wire(len(self.opened) + 1)
        self.opened.append(conn.number)
        return conn

    def close(self, conn: StubConnection) -> None:
        assert isinstance(conn, Wire)
        super().close(conn)
        self.closed.append(conn.number)
        conn.hang_up()

    def fileno(self, conn: StubConnection) -> int | None:
        assert isinstance(conn, Wire)
        return conn.fd

    def restore(self, conn: StubConnection, attributes: Any) -> None:
        self.ping(conn)
        super().restore(conn, attributes)

    def commit(self, conn: StubConnection) -> None:
        self.ping(conn)
        super().commit(conn)

    def rollback(self, conn: StubConnection) -> None:
        self.ping(conn)
        super().rollback(conn)
