"""A web server program with one of the sites, on a port of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.ecosystem.promises import free_port
from tests.support.gunicorn import get
from tests.support.waiting import wait_until

__all__ = ["program", "serving"]

ROOT = Path(__file__).parents[2]


def program(name: str) -> str:
    """Return the path of a program that a package of this environment has installed."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def serving(
    *command: str, url: str, log: Path, framework: str, **environ: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server until the end of the block; yield its address and the process.

    `{port}` in an argument of `command` becomes the port. `framework` is "flask" or "django".
    """
    port = free_port()
    variables: Mapping[str, str] = {"FIELD_URL": url, "FIELD_APP": framework, **environ}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [argument.replace("{port}", str(port)) for argument in command],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def serves() -> bool:
        assert server.poll() is None, f"it ended: {log.read_text()}"
        try:
            return get(f"http://127.0.0.1:{port}/up") == "up"
        except OSError:
            return False

    try:
        wait_until(serves, 60, lambda: f"it serves: {log.read_text()}")
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.send_signal(signal.SIGINT if "uwsgi" in command[0] else signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            raise AssertionError(f"it does not end: {log.read_text()}") from None
