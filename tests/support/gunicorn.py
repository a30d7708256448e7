"""gunicorn with an application of the tests, on a port of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testproject._postgres_guard import processes, send
from tests.support.waiting import PATIENCE, wait_until

__all__ = ["end", "get", "gunicorn"]

ROOT = Path(__file__).parents[2]


@contextmanager
def gunicorn(target: str, *options: str, variables: Mapping[str, str], log: Path) -> Iterator[str]:
    """Serve `target` until the end of the block, and yield its address; fails if it ends badly."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener, log.open("wb") as output:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        bind = ("--bind", f"fd://{listener.fileno()}", "--no-control-socket")
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "testproject.demo.launch", str(os.getpid())),
                *(*bind, *options, target),
            ],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
    try:
        wait_until(
            lambda: _serves(server, address), message=lambda: f"it serves: {log.read_text()}"
        )
        yield address
    finally:
        end(server)
    assert server.returncode == 0, log.read_text()


def end(server: subprocess.Popen[bytes]) -> int:
    """End gunicorn politely, by force where that does not help; return its status.

    A worker that is told while it boots does not hear, and gunicorn would wait for it until its
    grace is over: so those that are left are told again.
    """
    if server.poll() is None:
        server.terminate()
    for _ in range(int(2 * PATIENCE)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return server.wait(1.0)
        send((row.pid for row in processes() if row.parent == server.pid), signal.SIGTERM)
    server.kill()
    return server.wait()


def _serves(server: subprocess.Popen[bytes], address: str) -> bool:
    assert server.poll() is None, "it ended"
    try:
        return get(f"{address}/up") == "up"
    except OSError:
        return False


def get(url: str) -> str:
    """Return the body of a 200; raises OSError for anything else."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
        return body.decode()
