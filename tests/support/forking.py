"""Functions called in forked children, which never come back into the test runner."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.callers import PATIENCE, lent
from tests.support.sessions import one

__all__ = ["DRIVER", "Child", "ask", "fork_in_c", "forking_in_c", "in_child", "sessions"]

DRIVER = os.environ.get("DBPOOL_TEST_DRIVER", "psycopg2")  # `make test-psycopg` names the other
SOON = 0.5  # seconds
LIMIT = 30  # seconds after which a child that hangs is killed by its own alarm

T = TypeVar("T")


def fork_in_c() -> int:
    """Fork as uWSGI does: Python, which calls its hooks at forks of its own, hears nothing.

    When no thread is in a connect any more, if that is soon: a lock of the libraries below, held
    at the fork, is held in the child for ever. uWSGI forks long after its app has been loaded.
    """
    until = time.monotonic() + SOON
    while inside.connects_under_way() and time.monotonic() < until:
        time.sleep(0.001)
    # CPython has a thread that is asked for the GIL wait until another one has taken it. In a child
    # that was forked just then there is no other. So nobody asks for it now: who waits for the GIL
    # does so only after this long; who has waited for it already gets it in the sleep.
    usual = sys.getswitchinterval()
    sys.setswitchinterval(10 * LIMIT)
    try:
        time.sleep(0.02)
        return int(ctypes.PyDLL(None).fork())
    finally:
        sys.setswitchinterval(usual)


_fork = os.fork


@contextmanager
def forking_in_c() -> Iterator[None]:
    """Have the children that begin in this block forked so."""
    global _fork
    _fork = fork_in_c
    try:
        yield
    finally:
        _fork = os.fork


class Child(Generic[T]):
    """A forked process that calls the function, reports through a pipe, and ends by _exit."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._reader, writer = os.pipe()
        self.pid = _fork()
        if self.pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(LIMIT)
                os.close(self._reader)
                report = _report(function)
                with os.fdopen(writer, "wb") as out:
                    pickle.dump(report, out)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)

    def result(self) -> T:
        """Wait for its end; return what the function returned, or fail with what it raised."""
        try:
            with os.fdopen(self._reader, "rb") as pipe:
                report = pipe.read()
        except BaseException:  # a timeout of the test outside: it must not stay behind
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise
        _, status = os.waitpid(self.pid, 0)
        assert status == 0, f"the child hung or died (wait status {status})"
        raised, returned = pickle.loads(report)
        assert not raised, f"in the child:\n{raised}"
        return returned  # type: ignore[no-any-return]


def _report(function: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "", function()
    except BaseException:  # noqa: BLE001 - the parent fails with it
        return traceback.format_exc(), None


def in_child(function: Callable[[], T]) -> T:
    """Call the function in a forked child, and return what it returned."""
    return Child(function).result()


def ask(pool: ConnectionPool) -> int:
    """Ask a question of one's own; return the session that answered."""
    token = os.getpid() * 1000 + 7
    with pool.connection(PATIENCE) as conn:
        assert one(conn, "SELECT %s", token) == token
        return int(conn.info.backend_pid)


def sessions(pool: ConnectionPool, count: int) -> set[int]:
    with lent(pool, count) as taken:
        found = {int(conn.info.backend_pid) for conn in taken}
        for conn in taken:
            assert one(conn, "SELECT 5") == 5
            conn.rollback()
    assert len(found) == count
    return found
