"""huey's consumer: worker threads that live on, and worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ecosystem.promises import Database
from tests.ecosystem.queueing import ROOT, TASKS, all_done_once, working

pytestmark = pytest.mark.package(
    "huey", to_set="`@db_task`, or `dbpool_django.released` around the function of a `@task`"
)

APP = """
import os
from tests.ecosystem import tasks
tasks.set_up()
from huey import FileHuey
import dbpool_django

huey = FileHuey("field", path={place!r})
work = huey.task(name="work")(dbpool_django.released(tasks.work))
"""


@pytest.mark.parametrize("workers", ["thread", "process"])
def test_more_workers_than_connections_commit_every_task_once(
    field: Database, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "field_huey.py").write_text(APP.format(place=str(tmp_path / "queue")))
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    variables = {**os.environ, "PYTHONPATH": path, "FIELD_URL": field.address("django")}
    send = f"import field_huey\nfor n in range({TASKS}):\n    field_huey.work(n)"
    subprocess.run([sys.executable, "-c", send], cwd=ROOT, env=variables, check=True)
    consumer = (sys.executable, "-m", "huey.bin.huey_consumer", "field_huey.huey")
    log = tmp_path / "log"
    with working(
        *consumer, "--workers=6", f"--worker-type={workers}", field=field, log=log, PYTHONPATH=path
    ):
        all_done_once(field, log)
