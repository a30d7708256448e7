"""One process of the crowd: threads that call through a pool, and write down what they see.

    python -m tests.outages.load --pool dbpool --dsn "host=…" --out FILE

It says "ready" when its threads are calling. Told "stop" on its input, it stops them, asks for the
pool's whole capacity at once, writes what it saw to FILE (a pickle of `Seen`), and ends.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import pickle
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._others import PsycopgPool, SQLAlchemyPool
from benchmarks._peers import Connects, Dbpool, Peer, Psycopg2Pool, Wanted
from tests.outages.seen import Seen

__all__ = ["ACQUIRE", "CAPACITY", "GIVE_UP", "POOLS", "STATEMENT"]

ACQUIRE = 2.0  # seconds that a caller waits for a connection
STATEMENT = 2.0  # seconds that a caller gives its statement, where the pool can bound it
READ = "SELECT {}, pg_sleep(0.005)"
WRITE = "INSERT INTO seen VALUES ({}) RETURNING token, pg_sleep(0.005)"
BEAT = 0.005  # seconds between two heartbeats
GIVE_UP = 20.0  # seconds after "stop" for callers that hang
CAPACITY = 10.0  # seconds in which the whole capacity must be had at the end


POOLS: dict[str, Callable[[Wanted], Peer]] = {
    # With the pool's own deadline for what its callers do, and on a server that takes writes.
    "dbpool": lambda wanted: Dbpool(wanted, max_use=STATEMENT, role="primary"),
    "psycopg_pool": PsycopgPool,
    "psycopg_pool, check": lambda wanted: PsycopgPool(wanted, check=True),
    "SQLAlchemy, pre_ping": lambda wanted: SQLAlchemyPool(wanted, pre_ping=True),
    "psycopg2.pool": Psycopg2Pool,
}


class Outcomes:
    """Names of outcomes by their number; thread-safe."""

    def __init__(self) -> None:
        self.names = ["ok", "wrong token"]
        self._lock = threading.Lock()

    def number(self, error: BaseException) -> int:
        name = type(error).__name__
        with self._lock:
            if name not in self.names:
                self.names.append(name)
            return self.names.index(name)


class Caller(threading.Thread):
    """Takes a connection, asks for its own token, gives it back; again and again."""

    def __init__(
        self, peer: Peer, number: int, statement: str, outcomes: Outcomes, stop: threading.Event
    ) -> None:
        super().__init__(name=f"caller-{number}", daemon=True)
        self.peer, self.statement, self.outcomes, self.stop = peer, statement, outcomes, stop
        self.tokens = itertools.count(number << 32)
        self.calls: array[int] = array("q")
        self.since = 0  # when the call under way began

    def run(self) -> None:
        while not self.stop.is_set():
            self.since = started = time.monotonic_ns()
            token = next(self.tokens)
            try:
                outcome = 0 if self._ask(token) == token else 1
            except Exception as error:  # noqa: BLE001 - what callers see is the measurement
                outcome = self.outcomes.number(error)
            self.calls.extend((started, time.monotonic_ns(), outcome))
            self.since = 0
            if outcome > 1:
                self.stop.wait(0.01)  # an error at once, over and over, would only burn the machine

    def _ask(self, token: int) -> Any:
        with self.peer.lend() as conn:
            cursor = conn.cursor()
            cursor.execute(self.statement.format(token))
            answer = cursor.fetchone()[0]
            cursor.close()
            return answer


def beat(stop: threading.Event, late: list[tuple[int, int]]) -> None:
    """Write down when this thread is kept from running: a frozen interpreter, or a busy machine."""
    last = time.monotonic_ns()
    while not stop.is_set():
        time.sleep(BEAT)
        now = time.monotonic_ns()
        if now - last > 2 * BEAT * 1e9:
            late.append((now, now - last))
        last = now


def capacity(peer: Peer, size: int) -> int:
    """Return how many connections can be had at the same time, each good for a query."""
    held: list[Any] = []
    lock = threading.Lock()

    def take() -> None:
        conn = None
        try:
            conn = peer.take()
            cursor = conn.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
        except Exception:  # noqa: BLE001 - one less, that is the measurement
            if conn is not None:  # else its slot would be lost by our own fault
                peer.give(conn)
            return
        with lock:
            held.append(conn)

    until = time.monotonic() + CAPACITY
    while len(held) < size and time.monotonic() < until:
        threads = [threading.Thread(target=take, daemon=True) for _ in range(size - len(held))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
    for conn in held:
        peer.give(conn)
    return len(held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--pool", choices=POOLS, required=True)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="calls that write")
    options = parser.parse_args()

    logging.disable()  # what a pool says of an outage is no part of the table
    try:
        peer = POOLS[options.pool](Wanted(options.dsn, options.size, timeout=ACQUIRE))
    except Exception as error:  # noqa: BLE001 - some connect there and then: for `NotStarted`
        print(type(error).__name__, flush=True)
        return
    outcomes, stop, late = Outcomes(), threading.Event(), []
    statement = WRITE if options.write else READ
    callers = [
        Caller(peer, os.getpid() * 100 + number, statement, outcomes, stop)
        for number in range(options.threads)
    ]
    threading.Thread(target=beat, args=(stop, late), daemon=True).start()
    for caller in callers:
        caller.start()
    print("ready", flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "stop":
            break
        if isinstance(peer, Dbpool):  # the others know no such word
            {"pause": lambda: peer.pool.pause(30.0), "resume": peer.pool.resume}[command]()
        print("done", flush=True)
    stop.set()
    until = time.monotonic() + GIVE_UP
    for caller in callers:
        caller.join(max(0.0, until - time.monotonic()))
    seen = Seen(
        calls=[caller.calls for caller in callers],
        outcomes=outcomes.names,
        hung=[caller.since for caller in callers if caller.is_alive() and caller.since],
        beats=late,
        connects=[int(begun * 1e9) for begun in Connects.made],
        capacity=capacity(peer, options.size),
    )
    options.out.write_bytes(pickle.dumps(seen))
    print("written", flush=True)
    os._exit(0)  # whatever still hangs in here


if __name__ == "__main__":
    main()
