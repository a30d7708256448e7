"""Both adapters behind a real server: every golden exchange over HTTP, byte for byte."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.health import golden
from tests.health.asking import by_http
from tests.health.situations import place
from tests.support.gunicorn import end
from tests.support.servers import Postgres
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


@contextmanager
def gunicorn(target: str, variables: dict[str, str], log: Path) -> Iterator[int]:
    """Run one worker with threads, and yield its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, log.open("wb") as output:
        port = listener.getsockname()[1]
        fd = listener.fileno()
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "testproject.demo.launch", str(os.getpid())),
                *("--bind", f"fd://{fd}", "--worker-class", "gthread", "--threads", "4"),
                *("--no-control-socket", target),
            ],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[fd],
        )
    try:
        yield port
    finally:
        end(server)


@pytest.mark.parametrize("situation", golden.SITUATIONS)
@pytest.mark.parametrize("framework", ["flask", "django"])
def test_every_golden_exchange_over_http(
    framework: str, situation: str, postgres: Postgres, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with place(situation, postgres) as url:
        variables = {"GOLDEN_URL": url, "GOLDEN_SITUATION": situation}
        with gunicorn(f"tests.health.sites.{framework}_site:app()", variables, log) as port:
            home = golden.Request(path="/", host=None, version="1.0")
            wait_until(
                lambda: _answers(port, home), 30.0, lambda: f"it answers:\n{log.read_text()}"
            )
            for exchange in golden.EXCHANGES:
                if exchange.situation == situation:
                    reply = by_http(port, exchange.request)
                    assert reply == exchange.reply, (exchange.name, log.read_text())
    assert "Traceback" not in log.read_text()


def _answers(port: int, request: golden.Request) -> bool:
    try:
        with contextlib.suppress(AssertionError):  # a redirect is an answer, too
            by_http(port, request)
        return True
    except (OSError, ValueError, IndexError):  # not listening yet, or ending
        return False
