"""Celery workers: forked children, threads and greenlets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.ecosystem.promises import Database
from tests.ecosystem.queueing import TASKS, all_done_once, working
from tests.support import file_broker

pytestmark = pytest.mark.package(
    "celery", to_set="nothing; for `--pool gevent` with psycopg2 `wait_with_gevent()`"
)

APP = """
import os
from pathlib import Path
from tests.ecosystem import tasks
tasks.set_up()
from celery import Celery
from tests.support import file_broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "never.imported")
app = Celery("field", broker="filesystem://")
app.conf.update(
    broker_transport_options=file_broker.options(Path({place!r})),
    broker_connection_retry_on_startup=True,
    task_serializer="json",
    task_ignore_result=True,
)
work = app.task(name="work")(tasks.work)
if os.environ.get("FIELD_USED"):
    tasks.work(0)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_tasks_commit_once_in_a_clean_session(field: Database, tmp_path: Path, pool: str) -> None:
    file_broker.make(tmp_path)
    (tmp_path / "field_tasks.py").write_text(APP.format(place=str(tmp_path)))
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    worker = (sys.executable, "-m", "celery", "-A", "field_tasks", "worker", "--pool", pool)
    log, green = tmp_path / "log", "1" if pool == "gevent" else ""
    with working(
        *worker, "--concurrency=4", "--without-mingle", "--without-gossip", "-l", "WARNING",
        field=field, log=log, PYTHONPATH=path, FIELD_USED="1", FIELD_GREEN=green,
    ):  # fmt: skip
        from celery import Celery

        app = Celery(broker="filesystem://")
        app.conf.broker_transport_options = file_broker.options(tmp_path)
        for n in range(1, TASKS):
            app.send_task("work", args=[n])
        file_broker.post(tmp_path)
        all_done_once(field, log)
