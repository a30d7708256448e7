"""Exceptions at random moments, delivered by the interpreter itself, into threads that work."""

from __future__ import annotations

import ctypes
import random
import threading
import time
from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.servers import Postgres
from tests.support.waiting import wait_until

SLOTS, THREADS = 4, 8


class Interruption(BaseException):
    """What a timeout, a soft time limit or a signal handler throws in."""


def _work(pool: ConnectionPool, stop: threading.Event, problems: list[str]) -> None:
    """Borrow, ask for a token of one's own, return; whatever arrives, go on."""
    token = 0
    while not stop.is_set():
        try:
            token += 1
            with pool.connection(timeout=20) as conn, conn.cursor() as cursor:
                cursor.execute("SELECT %s", [token])
                answer = cursor.fetchone()
                if answer != (token,):
                    problems.append(f"asked for {token}, got {answer}")
        except Interruption:
            pass
        except Exception as error:  # noqa: BLE001 - see below
            # A driver call that was cut short may make the rest of its block fail; the pool's
            # own errors are another matter.
            if isinstance(error, ValueError):
                problems.append(repr(error))


def _run(pool: ConnectionPool, exceptions: int) -> list[str]:
    stop, problems = threading.Event(), list[str]()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    threads: list[threading.Thread] = []

    def body(depth: int = 3) -> None:
        # One may strike between two of the others' handlers: the next level catches it.
        while not stop.is_set():
            try:
                body(depth - 1) if depth else _work(pool, stop, problems)
            except Interruption:
                continue

    for _ in range(THREADS):
        threads.append(threading.Thread(target=body, daemon=True))
        threads[-1].start()
    rng = random.Random(7)
    for _ in range(exceptions):
        time.sleep(0.002)
        victim = rng.choice(threads)
        if not victim.is_alive():
            problems.append("a worker has died, and another thread may have its ident")
            break
        raise_in(ctypes.c_ulong(victim.ident or 0), ctypes.py_object(Interruption))
    stop.set()
    for thread in threads:
        thread.join(30)
    if any(thread.is_alive() for thread in threads):
        problems.append("a thread is stuck")
    return problems


def _all_slots_are_there(pool: ConnectionPool) -> None:
    wait_until(lambda: inside.find_lost(pool) is None and not inside.in_use(pool), 10)
    taken: list[Any] = [pool.getconn(timeout=20) for _ in range(SLOTS)]
    assert len({id(conn) for conn in taken}) == SLOTS
    for conn in taken:
        pool.putconn(conn)
    taken.clear()
    inside.audit(pool)


@pytest.mark.parametrize(
    "exceptions", [1_000, pytest.param(10_000, marks=pytest.mark.long)], ids=["some", "10,000"]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_exceptions_at_random_moments_cost_no_slot(postgres: Postgres, exceptions: int) -> None:
    with ConnectionPool(postgres.dsn(), max_size=SLOTS, timeout=20) as pool:
        problems = _run(pool, exceptions)
        assert problems == []
        _all_slots_are_there(pool)
