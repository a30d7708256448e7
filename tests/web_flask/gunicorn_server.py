"""gunicorn with the app of `served_app`, on a port of its own."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.gunicorn import end
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def begin(port: int, path: str, protocol: str = "HTTP/1.1") -> socket.socket:
    """Send a request and return the connection; nothing is read yet."""
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(f"GET {path} {protocol}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client


def exchange(port: int, path: str, protocol: str) -> tuple[bytes, bytes, bytes]:
    """Return status line, headers and body as they come, until the connection ends."""
    with begin(port, path, protocol) as client, client.makefile("rb") as answer:
        head, _, body = answer.read().partition(b"\r\n\r\n")
    status, _, headers = head.partition(b"\r\n")
    return status, headers, body


class GunicornServer:
    """Serves until the end of the with block.

    `options` are gunicorn's own, `environ` is what `served_app` reads.
    """

    def __init__(self, url: str, folder: Path, *options: str, **environ: str) -> None:
        self._log = folder / "gunicorn.log"
        self._go = folder / "go"
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            self.port: int = listener.getsockname()[1]
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable, "-m", "testproject.demo.launch", str(os.getpid()),
                        "--bind", f"fd://{listener.fileno()}", "--no-control-socket",
                        *options, "tests.web_flask.served_app:create_app()",
                    ],
                    cwd=ROOT,
                    env={
                        **os.environ, "SERVED_URL": url, "SERVED_GO": str(self._go), **environ
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                )  # fmt: skip

    def __enter__(self) -> GunicornServer:
        wait_until(self._serves, message=lambda: f"it serves: {self.log()[-2000:]}")
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _serves(self) -> bool:
        try:
            return self.get("/plain")[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, str, dict[str, str]]:
        """Return status, body and headers; raises OSError where there is no whole answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from error
        finally:
            connection.close()

    def begin(self, path: str) -> socket.socket:
        """Send a request and return the connection; nothing is read yet."""
        return begin(self.port, path)

    def go(self) -> None:
        """Let requests of /wait/python and /wait/busy go on."""
        self._go.touch()

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return [child.pid for child in psutil.Process(self._process.pid).children()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self._process.send_signal(number)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        """End it politely, by force where that does not help; return its status."""
        return end(self._process)
