"""Where there is no thread to be had, where a process forks, and where one ends."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbpool import ConnectionPool, health
from tests.health.probing import CountingDriver, ask, check_of, forget_proof, idle, landed
from tests.support import inside
from tests.support.black_hole import BlackHole
from tests.support.callers import PATIENCE, in_thread
from tests.support.servers import Postgres, count_sessions
from tests.support.threads import pool_threads
from tests.support.waiting import wait_until

PASS = ("pass", ())


# Threads


def test_without_a_thread_to_be_had_the_first_caller_probes(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def no_thread(thread: threading.Thread) -> None:
        if thread.name.startswith("dbpool-prober"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    asked_by: list[str] = []
    driver = CountingDriver()
    driver.on_probe = lambda: asked_by.append(threading.current_thread().name)
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        assert ask(check_of(pool)) == PASS
    assert asked_by == [threading.current_thread().name]


@pytest.mark.parametrize("end", ["close", "pause"])
def test_a_signal_handler_may_end_the_pool_in_the_midst_of_an_answer(
    end: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called where a handler may come in: while this very thread is judging, under the lock."""
    judge = inside.judge
    left = [end]

    def interrupted(pool: ConnectionPool, *args: Any) -> Any:
        while left:
            getattr(pool, left.pop())()
        return judge(pool, *args)

    inside.patch(monkeypatch, "judge", interrupted)
    with ConnectionPool(postgres.url()) as pool:
        status, _ = in_thread(ask, check_of(pool)).result(PATIENCE)
    assert status != "pass"
    assert not left


def test_a_pool_without_threads_probes_in_its_caller_and_keeps_no_spare(
    postgres: Postgres,
) -> None:
    driver = CountingDriver()
    with ConnectionPool(postgres.url(), driver=driver, background=False, name="alone") as pool:
        before = pool_threads()
        driver.on_probe = lambda: pool_threads() == before or pytest.fail("a thread")
        assert ask(check_of(pool)) == PASS
        assert inside.peek(inside.prober_of(pool), "spare") is None
        wait_until(lambda: count_sessions(postgres, "dbpool-health:alone") == 0)


def test_a_probe_that_is_interrupted_does_not_stop_the_next(postgres: Postgres) -> None:
    driver = CountingDriver()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with ConnectionPool(postgres.url(), driver=driver, background=False, max_size=1) as pool:
        check = check_of(pool)
        idle(pool, 1)
        forget_proof(pool)
        driver.on_probe = interrupt
        with pytest.raises(KeyboardInterrupt):
            ask(check)
        assert landed(pool)
        driver.on_probe = int
        forget_proof(pool)
        assert ask(check) == PASS
        with pool.connection(timeout=5):
            pass
        inside.audit(pool)


def test_a_thread_that_cannot_even_be_asked_for_leaves_no_probe_behind(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectionPool(postgres.url()) as pool:
        check = check_of(pool)
        with monkeypatch.context() as patch:

            def interrupted(thread: threading.Thread) -> None:
                raise KeyboardInterrupt

            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ask(check)
        forget_proof(pool)
        assert ask(check) == PASS


# Forks


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in a forked child, which ends as a process does that has no finalisers."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - a child must not go on with the parent's test
            traceback.print_exc()
        finally:
            os._exit(status)

    def ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0, f"the child ended with {status}"
        return bool(found)

    try:
        wait_until(ended, 30.0, "the child ends")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise


def test_a_child_has_a_spare_of_its_own_and_leaves_the_parents_alone(postgres: Postgres) -> None:
    driver = CountingDriver()
    with ConnectionPool(postgres.url(), driver=driver, name="forked") as pool:
        check = check_of(pool)
        assert ask(check) == PASS
        wait_until(lambda: landed(pool))
        # No reference to the connection itself: the child must be free to drop it.
        pid = session_of_spare(pool)
        fd = pool.driver.fileno(inside.peek(inside.prober_of(pool), "spare").conn)  # type: ignore[union-attr]
        assert fd is not None
        assert stat.S_ISSOCK(os.fstat(fd).st_mode)

        def child() -> None:
            # Whatever becomes of its object in this process, nothing reaches the server.
            assert not stat.S_ISSOCK(os.fstat(fd).st_mode)
            gc.collect()
            assert ask(check) == PASS
            wait_until(lambda: landed(pool))
            assert session_of_spare(pool) != pid
            pool.close()

        in_child(child)
        forget_proof(pool)
        assert ask(check) == PASS
        wait_until(lambda: landed(pool))
        assert session_of_spare(pool) == pid
        assert (driver.probes, driver.spares) == (2, 1)
        wait_until(lambda: count_sessions(postgres, "dbpool-health:forked") == 1)


def session_of_spare(pool: ConnectionPool) -> int:
    """Return the process of the server that serves the spare connection."""
    spare = inside.peek(inside.prober_of(pool), "spare")
    assert spare is not None
    return int(spare.conn.info.backend_pid)


def test_a_child_does_not_wait_for_a_probe_of_its_parent(postgres: Postgres) -> None:
    go_on = threading.Event()
    driver = CountingDriver()
    driver.on_probe = lambda: go_on.wait(PATIENCE)
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        check = check_of(pool, deadline=0.05)
        assert ask(check)[0] == "fail"
        wait_until(lambda: driver.probes == 1)
        lock = inside.lock(inside.prober_of(pool))

        def child() -> None:
            driver.on_probe = int
            assert ask(check_of(pool)) == PASS

        with lock:  # as if another thread were just in there
            in_child(child)
        go_on.set()
        wait_until(lambda: ask(check) == PASS)


def test_a_child_is_not_draining_because_its_parent_is() -> None:
    health.set_draining()
    try:

        def child() -> None:
            assert not health.is_draining()

        in_child(child)
        assert health.is_draining()
    finally:
        health.set_draining(False)


# The end


STUCK = """
import sys
from dbpool import ConnectionPool
from dbpool.health import HealthCheck
pool = ConnectionPool(sys.argv[1], connect_timeout=1000)
check = HealthCheck(lambda: {"default": pool}, deadline=0.05)
print(check.respond("GET", "/healthz/db", "", {}, "")[0])
"""


def test_a_process_ends_although_a_probe_is_stuck() -> None:
    with BlackHole() as hole:
        done = subprocess.run(
            [sys.executable, "-c", STUCK, hole.url],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
        )
    assert (done.returncode, done.stdout) == (0, "503\n")
    assert "Traceback" not in done.stderr
