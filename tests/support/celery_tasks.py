"""A Celery application whose tasks use a pool that the worker's parent has used before it forks.

`python -m tests.support.celery_tasks COUNT` sends so many tasks, or as many as it takes until two
processes have answered, and prints the answers as JSON.
CELERY_FOLDER is where broker and results live; POOL_CONNINFO and POOL_DRIVER as in pool_tasks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from celery import Celery
from celery.signals import worker_init

from tests.support import file_broker, pool_tasks

folder = Path(os.environ["CELERY_FOLDER"])
app = Celery("pool", broker="filesystem://", backend=(folder / "results").as_uri())
app.conf.update(
    broker_transport_options={**file_broker.options(folder), "polling_interval": 0.05},
    worker_prefetch_multiplier=1,
)
parents: list[int] = []


@worker_init.connect
def use_it(**_: object) -> None:
    """The parent has used the pool, and holds a connection, when it forks."""
    held = pool_tasks.pool.getconn()
    app.held = held
    parents.extend([pool_tasks.backend(held), pool_tasks.ask(-1)[1]])


@app.task  # type: ignore[untyped-decorator, unused-ignore]
def ask(token: int) -> tuple[int, int, int, list[int]]:
    return (*pool_tasks.ask(token), parents)


if __name__ == "__main__":
    from tests.support.celery_tasks import ask as task

    answers: list[list[int]] = []
    while len(answers) < int(sys.argv[1]) or len({process for process, *_ in answers}) < 2:
        sent = [task.delay(len(answers) + number) for number in range(20)]
        file_broker.post(folder)
        answers += [result.get(timeout=60) for result in sent]
    print(json.dumps(answers))
