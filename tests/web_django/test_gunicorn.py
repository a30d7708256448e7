"""gunicorn with threads and --preload: the master has queried when it forks its workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.support.gunicorn import end
from tests.support.servers import Postgres, count_sessions
from tests.support.waiting import wait_until
from tests.web_django.project import database

WORKERS, THREADS, MAX_SIZE = 2, 4, 2
NAME = "dbpool-tests-gunicorn"


@pytest.fixture
def address(postgres: Postgres, tmp_path: Path) -> Iterator[str]:
    settings = database(postgres.dsn(application_name=NAME), {"max_size": MAX_SIZE})
    environ = {**os.environ, "DBPOOL_TEST_DATABASE": json.dumps(settings)}
    options = ["--preload", "--worker-class", "gthread", "--no-control-socket"]
    options += ["--workers", str(WORKERS), "--threads", str(THREADS), "--bind", "127.0.0.1:0"]
    log = tmp_path / "gunicorn.log"
    with log.open("w") as output:
        gunicorn = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "tests.web_django.preloaded"],
            cwd=Path(__file__).parents[2],
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            found = wait_until(
                lambda: re.search(r"Listening at: (\S+)", log.read_text()),
                message=log.read_text,
            )
            yield found.group(1)
        finally:
            end(gunicorn)
    assert gunicorn.returncode == 0, log.read_text()
    wait_until(lambda: count_sessions(postgres, NAME) == 0, message="no session left")


def test_preloaded_workers_have_sessions_of_their_own(address: str, postgres: Postgres) -> None:
    def ask(number: int) -> dict[str, object]:
        if number % 20 == 0:
            with pytest.raises(HTTPError):
                urlopen(f"{address}/fail", timeout=60)
        with urlopen(f"{address}/ask?echo={number}", timeout=60) as answer:
            return {**json.load(answer), "sent": str(number)}

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, range(400)))
    assert all(answer["echo"] == answer["sent"] for answer in answers)
    sessions: dict[object, set[object]] = defaultdict(set)
    for answer in answers:
        sessions[answer["process"]].add(answer["session"])
    assert len(sessions) == WORKERS
    first, second = sessions.values()
    assert not first & second
    assert max(len(first), len(second)) <= MAX_SIZE
    # The master's two are still there: no child has said goodbye in their name.
    assert count_sessions(postgres, NAME) == len(first | second) + 2
