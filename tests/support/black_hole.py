"""A server that says nothing."""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ["BlackHole"]


class BlackHole:
    """A server that accepts connections and never says a word; it counts them."""

    def __enter__(self) -> BlackHole:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.accepted: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, name="black hole")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self.accepted:
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.accepted.append(self._listener.accept()[0])

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"postgresql://app:hush@127.0.0.1:{self.port}/shop"
