"""Django on a real Celery worker: forked children, and what Celery closes around each task."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import file_broker
from tests.support.servers import Postgres, count_sessions
from tests.support.waiting import wait_until
from tests.web_django.project import database

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("celery") is None, reason="Celery is not installed"
)

ROOT = Path(__file__).parents[2]
CHILDREN, TASKS, MAX_SIZE = 2, 40, 2

SETTINGS = """
DATABASES = {{"default": {database!r}}}
INSTALLED_APPS = ["tests.web_django.shelf"]
SECRET_KEY = "only for tests"
USE_TZ = True
"""

# The parent has queried when it forks: one connection in hand, and one that is idle.
WORKER = """
import os
import django
django.setup()
from pathlib import Path
from celery import Celery
from django.db import connection
from tests.support import file_broker

place = {place!r}
app = Celery("shop", broker="filesystem://", backend="file://" + place + "/results")
app.conf.update(
    broker_transport_options=file_broker.options(Path(place)),
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    task_serializer="json",
)

def session(echo):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), %s", [echo])
        return list(cursor.fetchone())

@app.task
def ask(echo):
    first = session(echo)
    if echo % 7 == 0:
        connection.set_autocommit(False)
        session(echo)  # and leaves its transaction open
    return [os.getpid(), first, session(echo)]

if os.environ.get("FORKS"):
    copy = connection.copy()
    copy.ensure_connection()
    PARENT = [session(0)[0], copy.connection.info.backend_pid]
    copy.close()
    open(place + "/parent", "w").write(repr(PARENT))
"""


@pytest.fixture(params=["the engine line alone", "a pool key"])
def shop(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path
) -> Iterator[tuple[Path, str, dict[str, str]]]:
    """A project with a worker that is running; the name of its sessions; its environment."""
    name = f"dbpool-celery-{os.getpid()}-{len(request.param)}"
    # The key alone decides whether Celery calls close_pool() before and after each task.
    pool = {"max_size": MAX_SIZE} if request.param == "a pool key" else None
    settings = database(postgres.dsn(application_name=name), pool)
    (tmp_path / "celery_settings.py").write_text(SETTINGS.format(database=settings))
    (tmp_path / "celery_shop.py").write_text(WORKER.format(place=str(tmp_path)))
    file_broker.make(tmp_path)
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "celery_settings",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path))),
    }
    command = ["-m", "celery", "-A", "celery_shop", "worker", "--pool", "prefork"]
    command += ["--concurrency", str(CHILDREN), "--without-gossip", "--without-mingle"]
    command += ["--loglevel", "INFO"]
    log = tmp_path / "worker.log"
    with log.open("w") as output:
        worker = subprocess.Popen(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**environ, "FORKS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: "ready." in log.read_text(), timeout=60, message=log.read_text)
            yield tmp_path, name, environ
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
    assert "Traceback" not in log.read_text(), log.read_text()
    wait_until(lambda: count_sessions(postgres, name) == 0, message="no session left")


ASK = """
import json
from celery_shop import Path, ask, file_broker, place
sent = [ask.delay(number) for number in range({tasks})]
file_broker.post(Path(place))
print(json.dumps([result.get(timeout=60) for result in sent]))
"""


def test_tasks_have_sessions_of_their_childs_own(
    shop: tuple[Path, str, dict[str, str]], postgres: Postgres
) -> None:
    place, name, environ = shop
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(tasks=TASKS)],
        cwd=place,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    sessions: dict[int, set[int]] = defaultdict(set)
    for number, (process, *asked) in enumerate(answers):
        assert [echo for _, echo in asked] == [number] * 2
        sessions[process].update(session for session, _ in asked)
    assert len(sessions) == CHILDREN
    first, second = sessions.values()
    parent = set(json.loads((place / "parent").read_text()))
    assert not first & second
    assert not parent & (first | second)
    # No child has said goodbye in the parent's name. With the key Celery itself has, before it
    # forked: it closes the pool.
    if "'pool'" not in (place / "celery_settings.py").read_text():
        assert count_sessions(postgres, name) >= len(parent)
    assert count_sessions(postgres, name) <= len(parent) + CHILDREN * MAX_SIZE
