"""A server that refuses every login, with a code and words of the test's own."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

__all__ = ["RefusingServer"]

_SSL, _GSS = 80877103, 80877104  # what a client may ask for first


class RefusingServer:
    """Speaks as much of PostgreSQL's protocol as a refusal takes; `logins` are their times.

    Arguments: `sqlstate`, and the text; without the first it closes the connection and says
    nothing.
    """

    def __init__(self, sqlstate: str, text: str) -> None:
        fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": text}
        body = b"".join(k.encode() + v.encode() + b"\0" for k, v in fields.items()) + b"\0"
        self._answer = b"E" + struct.pack("!I", len(body) + 4) + body if sqlstate else b""
        self.logins: list[float] = []

    def __enter__(self) -> RefusingServer:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._thread = threading.Thread(target=self._accept, name="refusing server")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def dsn(self) -> str:
        port = self._listener.getsockname()[1]
        return f"host=127.0.0.1 port={port} dbname=shop user=app sslmode=disable"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                with contextlib.suppress(OSError), client:
                    self._refuse(client)

    def _refuse(self, client: socket.socket) -> None:
        client.settimeout(10.0)
        while len(head := client.recv(8, socket.MSG_WAITALL)) == 8:
            length, code = struct.unpack("!II", head)
            if code in (_SSL, _GSS):
                client.sendall(b"N")
                continue
            client.recv(length - 8, socket.MSG_WAITALL)
            self.logins.append(time.monotonic())
            client.sendall(self._answer)
            return
