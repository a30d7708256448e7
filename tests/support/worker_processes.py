"""A program that has used its pool when it starts workers, which use it too.

`python -m tests.support.worker_processes WHAT METHOD`: prints its answers as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any

from tests.support import inside, pool_tasks
from tests.support.pool_tasks import Answer, ask, backend, pool

TASKS = 24
LIMIT = 80  # seconds after which a worker that hangs is killed by its own alarm

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: signal.alarm(LIMIT))


def put(token: int, answers: Any) -> None:
    answers.put(ask(token))


def by_process(context: BaseContext) -> list[Answer]:
    answers: Any = context.Queue()
    workers = [context.Process(target=put, args=(token, answers)) for token in range(TASKS // 4)]  # type: ignore[attr-defined]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    return found


def by_pool(context: BaseContext) -> list[Answer]:
    with context.Pool(2) as workers:
        found = workers.map(ask, range(TASKS), chunksize=1)
        workers.close()
        workers.join()
    return found


def by_executor(context: BaseContext) -> list[Answer]:
    with ProcessPoolExecutor(2, mp_context=context) as workers:
        return list(workers.map(ask, range(TASKS)))


def work_on(end: threading.Event, found: list[Answer]) -> None:
    token = 1_000_000
    while not end.is_set():
        token += 1
        found.append(ask(token))


def main(what: Callable[[BaseContext], list[Answer]], method: str) -> None:
    held = pool.getconn()
    mine = backend(held)
    end, ours = threading.Event(), [ask(-1)]
    thread = threading.Thread(target=work_on, args=(end, ours))
    thread.start()
    try:
        answers = what(multiprocessing.get_context(method))
    finally:
        end.set()
        thread.join()
    assert backend(held) == mine
    held.rollback()
    pool.putconn(held)
    inside.audit(pool)
    assert pool.get_stats()["connections_num"] == 2, "a session of the parent's was lost"
    print(json.dumps([(os.getpid(), mine, 0), *ours, *answers]))


if __name__ == "__main__":
    assert pool_tasks.pool is pool
    main(
        {"process": by_process, "pool": by_pool, "executor": by_executor}[sys.argv[1]], sys.argv[2]
    )
