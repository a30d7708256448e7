"""The pools that are compared, each behind the same few methods.

`take` and `give` are the pool's own bound methods wherever it has them, so that nothing is
measured besides the pool. Connections are in autocommit mode, unless they are to be plain: what
a transaction costs is the server's affair, and it would be the same for all.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import LifoQueue
from typing import Any, ClassVar

import psycopg2
import psycopg2.extensions
import psycopg2.pool

from dbpool import ConnectionPool

__all__ = [
    "BareFairQueue",
    "BareQueue",
    "Connects",
    "Dbpool",
    "LocksAndDeque",
    "Peer",
    "Psycopg2Pool",
    "Wanted",
    "query",
]


class Connects:
    """Every connect of every pool in this process: how much longer it takes, and when it was."""

    delay = 0.0
    made: ClassVar[list[float]] = []

    @classmethod
    def begin(cls) -> None:
        """Count one connect, and hold it up."""
        cls.made.append(time.monotonic())
        if cls.delay:
            time.sleep(cls.delay)


class AutocommitConnection(psycopg2.extensions.connection):
    """A psycopg2 connection in autocommit mode."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        Connects.begin()
        super().__init__(*args, **kwargs)
        self.autocommit = True


@dataclass(frozen=True)
class Wanted:
    """The pool to be made.

    It has `size` connections at most and keeps `keep` of them, or all, open; who waits for one
    waits `timeout` seconds at most. `plain` connections are as their driver makes them, which is
    what most projects have.
    """

    dsn: str
    size: int
    timeout: float = 10.0
    keep: int | None = None
    plain: bool = False

    @property
    def kept(self) -> int:
        return self.size if self.keep is None else self.keep

    @property
    def options(self) -> dict[str, Any]:
        """What psycopg2's connect is called with besides the dsn."""
        return {} if self.plain else {"connection_factory": AutocommitConnection}


class Peer:
    """One pool.

    `take()` waits for a connection and `give(conn)` returns it; `lend()` is the pool's context
    manager; `use()` is one query, written as the pool's documentation has it.
    """

    name: str
    package = ""  # what has to be installed
    errors: tuple[type[Exception], ...] = (psycopg2.Error,)

    take: Callable[[], Any]
    give: Callable[[Any], object]

    def __init__(self, wanted: Wanted) -> None:
        raise NotImplementedError

    def lend(self) -> AbstractContextManager[Any]:
        return _Lent(self)

    def use(self) -> None:
        with self.lend() as conn:
            query(conn)

    def close(self) -> None:
        raise NotImplementedError

    def fill(self, count: int) -> None:
        """Have `count` connections open and idle."""
        taken = [self.take() for _ in range(count)]
        for conn in taken:
            self.give(conn)


class _Lent:
    """The context manager for pools that have none."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def __enter__(self) -> Any:
        self.conn = self.peer.take()
        return self.conn

    def __exit__(self, *exc: object) -> None:
        self.peer.give(self.conn)


def query(conn: Any) -> None:
    """Make one round trip."""
    cursor = conn.cursor()
    cursor.execute("SELECT 1")
    cursor.fetchone()
    cursor.close()


class Dbpool(Peer):
    name = "dbpool"

    def __init__(self, wanted: Wanted, **options: Any) -> None:
        self.pool = ConnectionPool(
            wanted.dsn,
            min_size=wanted.keep or 0,
            max_size=wanted.size,
            timeout=wanted.timeout,
            **{"driver": "psycopg2", "kwargs": wanted.options, **options},
        )
        self.take, self.give = self.pool.getconn, self.pool.putconn

    def fill(self, count: int) -> None:
        self.pool.wait(10.0)
        super().fill(count)

    def lend(self) -> AbstractContextManager[Any]:
        return self.pool.connection()

    def close(self) -> None:
        self.pool.close()


class Psycopg2Pool(Peer):
    """ThreadedConnectionPool raises where the others wait, so a semaphore goes before it."""

    name = "psycopg2.pool"

    def __init__(self, wanted: Wanted) -> None:
        # It opens minconn connections at once, and closes on return all that is above.
        self.pool = psycopg2.pool.ThreadedConnectionPool(
            wanted.kept, wanted.size, wanted.dsn, **wanted.options
        )
        self._free = threading.BoundedSemaphore(wanted.size)
        self.take, self.give = self._take, self._give

    def without_semaphore(self) -> Psycopg2Pool:
        """For measurements in which nobody has to wait."""
        self.take, self.give = self.pool.getconn, self.pool.putconn
        return self

    def _take(self) -> Any:
        self._free.acquire()
        try:
            return self.pool.getconn()
        except BaseException:
            self._free.release()
            raise

    def _give(self, conn: Any) -> None:
        self.pool.putconn(conn)
        self._free.release()

    def close(self) -> None:
        self.pool.closeall()


class BareQueue(Peer):
    """Connections in a LifoQueue: no pool, but what many a project has."""

    name = "LifoQueue alone"

    def __init__(self, wanted: Wanted) -> None:
        self.queue: LifoQueue[Any] = LifoQueue()
        for _ in range(wanted.size):
            self.queue.put(psycopg2.connect(wanted.dsn, **wanted.options))
        self.take, self.give = self.queue.get, self.queue.put

    def close(self) -> None:
        while not self.queue.empty():
            self.queue.get().close()


class BareFairQueue(Peer):
    """The least that a fair pool can be: idle connections, and callers who sleep in their order."""

    name = "fair queue alone"

    def __init__(self, wanted: Wanted) -> None:
        idle = deque(psycopg2.connect(wanted.dsn, **wanted.options) for _ in range(wanted.size))
        waiting: deque[tuple[threading.Lock, list[Any]]] = deque()
        self.idle = idle

        def take() -> Any:
            try:
                return idle.pop()
            except IndexError:
                pass
            lock, box = threading.Lock(), list[Any]()
            lock.acquire()
            waiting.append((lock, box))
            if idle:  # it came in between
                try:
                    give(idle.pop())
                except IndexError:
                    pass
            lock.acquire(True, wanted.timeout)
            return box[0]

        def give(conn: Any) -> None:
            while True:
                try:
                    lock, box = waiting.popleft()
                except IndexError:
                    idle.append(conn)
                    if not waiting:
                        return
                    try:  # somebody has queued in between
                        conn = idle.pop()
                    except IndexError:
                        return
                else:
                    box.append(conn)
                    lock.release()
                    return

        self.take, self.give = take, give

    def close(self) -> None:
        while self.idle:
            self.idle.pop().close()


class LocksAndDeque(Peer):
    """The least that a pool with a lock can be: one lock pair to take, one to give."""

    name = "two locks and a deque alone"

    def __init__(self, wanted: Wanted) -> None:
        lock, idle = threading.Lock(), deque([object() for _ in range(wanted.size)])

        def take() -> Any:
            with lock:
                return idle.pop()

        def give(conn: Any) -> None:
            with lock:
                idle.append(conn)

        self.take, self.give = take, give

    def close(self) -> None:
        pass
