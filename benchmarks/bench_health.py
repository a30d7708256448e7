"""Measure what health checks cost: 600 of them from 64 threads, in three bursts of 200.

    .venv/bin/python -m benchmarks.bench_health

On a live database, on one whose pool is full and busy, and on a black hole, which accepts
connections and never answers. The marks are those of the design.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from dbpool import ConnectionPool
from dbpool.health import HealthCheck
from testproject.postgres import PostgresServer
from tests.health.probing import CountingDriver
from tests.support import inside
from tests.support.black_hole import BlackHole

THREADS, BURSTS, CHECKS = 64, 3, 200
SLOWEST = 0.9  # seconds, at most


@contextmanager
def busy(pool: ConnectionPool) -> Iterator[None]:
    """Keep every connection of the pool at work: transactions of 20 ms, one after another."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.02)")

    threads = [threading.Thread(target=work) for _ in range(pool.max_size)]
    for thread in threads:
        thread.start()
    try:
        while len(inside.in_use(pool)) < pool.max_size:
            time.sleep(0.005)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def burst(check: HealthCheck) -> list[tuple[float, int]]:
    """Return seconds and status of 200 checks by 64 threads at once."""
    answers: list[tuple[float, int]] = []
    go = threading.Barrier(THREADS)

    def ask(number: int) -> None:
        go.wait()
        for _ in range(number, CHECKS, THREADS):
            started = time.perf_counter()
            status = check.respond("GET", "/healthz/db", "", {}, "")[0]
            answers.append((time.perf_counter() - started, status))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def measure(name: str, url: str, traffic: bool = False) -> bool:
    """Print one row; return whether the slowest was within the mark."""
    driver = CountingDriver()
    with ExitStack() as stack:
        pool = stack.enter_context(ConnectionPool(url, driver=driver, max_size=2))
        if traffic:
            stack.enter_context(busy(pool))
        check = HealthCheck(lambda: {"default": pool})
        answers = sorted(answer for _ in range(BURSTS) for answer in burst(check))
    seconds = [answer[0] * 1000 for answer in answers]
    statuses = sorted({answer[1] for answer in answers})
    print(
        f"{name:12} {len(answers):6} {driver.probes:8} {driver.spares:10}"
        f" {seconds[len(seconds) // 2]:9.2f} {seconds[len(seconds) * 99 // 100]:9.2f}"
        f" {seconds[-1]:9.2f}   {', '.join(map(str, statuses))}"
    )
    return seconds[-1] < SLOWEST * 1000


def main() -> None:
    logging.disable()  # the black hole's failure is no news
    print("database     checks  queries  new links    p50 ms    p99 ms  slowest   status")
    with PostgresServer() as server, BlackHole() as hole:
        good = [
            measure("live", server.url()),
            measure("busy", server.url(), traffic=True),
            measure("black hole", hole.url),
        ]
        connections = len(hole.accepted)
    print(f"TCP connections at the black hole: {connections}")
    print(f"none slower than {SLOWEST} s: {'yes' if all(good) else 'NO'}")


if __name__ == "__main__":
    main()
