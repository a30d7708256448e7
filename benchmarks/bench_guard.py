"""What a deadline costs, and that no thread stands while one is kept.

    python -m benchmarks.bench_guard

Arming and disarming a guard is on the way of each ping, rollback and reset. The gaps are those of
a thread that wants to run every 5 ms: with nothing going on, and while the pool's operations run
into a server that is stopped. Both depend on what else the machine does.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from dbpool import ConnectionPool, PoolTimeout
from testproject.postgres import PostgresServer
from tests.support import inside

MOST_US, MOST_GAP = 3.0, 0.050


def arming(pool: ConnectionPool, conn: Any) -> float:
    """Return the microseconds of one guard, in the least disturbed of many batches."""
    best = float("inf")
    for _ in range(200):
        started = time.perf_counter()
        for _ in range(200):
            with inside.TimeLimit(pool.driver, conn, 2.0):
                pass
        best = min(best, (time.perf_counter() - started) / 200)
    return best * 1e6


class Heartbeat:
    """The longest time for which a thread that wants to run every 5 ms could not."""

    def __enter__(self) -> Heartbeat:
        self.longest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(0.005):
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now


def overruns(server: PostgresServer) -> tuple[float, float]:
    """Return the longest gap, and the longest time past its deadline, over eight operations."""
    late = 0.0
    with ConnectionPool(server.dsn(), max_size=8, ping_timeout=0.3, timeout=10) as pool:
        conns = [pool.getconn() for _ in range(8)]
        for conn in conns:
            conn.cursor().execute("SELECT 1")  # a rollback is due
        server.freeze()
        try:
            with Heartbeat() as heart:
                for conn in conns:
                    started = time.monotonic()
                    pool.putconn(conn)
                    late = max(late, time.monotonic() - started - 0.3)
                with suppress(PoolTimeout):  # a connect is under way meanwhile
                    pool.getconn(timeout=1.0)
        finally:
            server.thaw()
    return heart.longest, late


def main() -> None:
    """Print the figures beside their goals."""
    with PostgresServer() as server:
        with ConnectionPool(server.dsn()) as pool, pool.connection() as conn:
            cost = arming(pool, conn)
        with Heartbeat() as quiet:
            time.sleep(2.0)
        gap, late = overruns(server)
    for text, value, most, unit, scale in (
        ("arm and disarm a guard", cost, MOST_US, "µs", 1),
        ("longest gap, quiet", quiet.longest, None, "ms", 1000),
        ("longest gap, server stopped", gap, MOST_GAP, "ms", 1000),
        ("longest overrun of a deadline", late, None, "ms", 1000),
    ):
        goal = (
            "" if most is None else f"goal {most * scale:g}: {'met' if value <= most else 'MISSED'}"
        )
        print(f"{text:32} {value * scale:8.2f} {unit}   {goal}".rstrip())


if __name__ == "__main__":
    main()
