"""Programs that start workers after they have used a pool: each process has its own sessions."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import file_broker
from tests.support.forking import DRIVER
from tests.support.gunicorn import get, gunicorn
from tests.support.servers import Postgres, count_sessions
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
NAME = "worker processes"
LIMIT = 90.0
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")


@pytest.fixture
def variables(server: Postgres) -> Iterator[dict[str, str]]:
    """What tells a program of its pool; at its end no session may be left."""
    yield {"POOL_CONNINFO": server.dsn(application_name=NAME), "POOL_DRIVER": DRIVER}
    wait_until(lambda: count_sessions(server, NAME) == 0, LIMIT, "no session is left")


def processes_of(answers: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    """Return the sessions of each process; fail if one has answered two."""
    sessions: dict[int, set[int]] = defaultdict(set)
    users: dict[int, set[int]] = defaultdict(set)
    for process, session in answers:
        sessions[process].add(session)
        users[session].add(process)
    assert [pids for pids in users.values() if len(pids) > 1] == [], "two processes share one"
    return sessions


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("what", ["process", "pool", "executor"])
def test_workers_of_multiprocessing(what: str, method: str, variables: dict[str, str]) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "tests.support.worker_processes"),
            *(what, method),
        ],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = json.loads(done.stdout)
    tokens = [token for _, _, token in answers if 0 < token < 1000]
    assert len(tokens) == len(set(tokens)) >= 5
    sessions = processes_of((process, session) for process, session, _ in answers)
    assert len(sessions) >= 2, "no worker worked"
    assert all(len(found) <= 2 for found in sessions.values()), "more than max_size"


def test_preloaded_workers_of_gunicorn(
    variables: dict[str, str], server: Postgres, tmp_path: Path
) -> None:
    """The master has a connection lent, one idle, and a thread at work when it forks."""
    options = ["--preload", "--worker-class", "gthread", "--workers", "2", "--threads", "4"]
    given = {**variables, "POOL_SIZE": "3", "POOL_USED": "1"}
    with (
        gunicorn("tests.support.pool_app", *options, variables=given, log=tmp_path / "log") as at,
        ThreadPoolExecutor(8) as clients,
    ):
        until = time.monotonic() + LIMIT
        answers: list[tuple[int, int]] = []
        token = 0
        while len({process for process, _ in answers}) < 2 or len(answers) < 400:
            assert time.monotonic() < until, "one of the workers never answers"
            asked = range(token, token := token + 100)
            for sent, text in zip(
                asked, clients.map(lambda n: get(f"{at}/ask?token={n}"), asked), strict=True
            ):
                process, session, answer, master = json.loads(text)
                assert answer == sent
                assert session not in master
                answers.append((process, session))
        sessions = processes_of(answers)
        assert all(len(found) <= 3 for found in sessions.values())
        # The master's are there still: no child has said goodbye in their name.
        workers = len(set().union(*sessions.values()))
        assert count_sessions(server, NAME) >= workers + len(master)


@pytest.mark.skipif(importlib.util.find_spec("celery") is None, reason="Celery is not installed")
def test_prefork_workers_of_celery(
    variables: dict[str, str], server: Postgres, tmp_path: Path
) -> None:
    file_broker.make(tmp_path)
    environ = {**os.environ, **variables, "CELERY_FOLDER": str(tmp_path)}
    log = tmp_path / "log"
    options = ["--pool", "prefork", "--concurrency", "2", "--without-mingle", "--without-gossip"]
    with log.open("w") as output:
        worker = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "celery"),
                *("--app", "tests.support.celery_tasks", "worker", *options),
            ],
            env=environ,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.support.celery_tasks", "40"],
            env=environ,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr + log.read_text()
        answers = json.loads(done.stdout)
        assert [answer for _, _, answer, _ in answers] == list(range(len(answers)))
        sessions = processes_of((process, session) for process, session, _, _ in answers)
        (master,) = {tuple(master) for _, _, _, master in answers}
        assert len(set(master)) == 2
        assert len(sessions) == 2
        assert worker.pid not in sessions
        theirs = set().union(*sessions.values())
        assert theirs.isdisjoint(master)
        assert count_sessions(server, NAME) == len(theirs) + len(master)
    finally:
        worker.terminate()
        worker.wait(LIMIT)
    assert worker.returncode == 0, log.read_text()
