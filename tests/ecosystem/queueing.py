"""A worker program of a task queue, and a look at what it has done."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ecosystem.promises import Database
from tests.support.waiting import wait_until

__all__ = ["ROOT", "TASKS", "all_done_once", "working"]

ROOT = Path(__file__).parents[2]
TASKS = 40


@contextmanager
def working(*command: str, field: Database, log: Path, **environ: str) -> Iterator[None]:
    """Run a worker until the end of the block."""
    variables = {**os.environ, "FIELD_URL": field.address("django"), **environ}
    with log.open("wb") as output:
        worker = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield
        assert worker.poll() is None, log.read_text()
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def all_done_once(field: Database, log: Path) -> None:
    """Wait until each task has left its row, once."""

    def done() -> bool:
        return int(field.sql("SELECT count(*) FROM field_row")) >= TASKS

    wait_until(done, 60, lambda: f"all tasks are done: {log.read_text()[-3000:]}")
    assert int(field.sql("SELECT count(DISTINCT n) FROM field_row")) == TASKS
