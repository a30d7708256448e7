"""A fork that Python does not hear of is noticed by whatever touches a pool first in the child.

uWSGI forks so: its master loads the app, and no hook of Python's is called in the workers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolError, health
from dbpool.health import HealthCheck
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    Held,
    MakePool,
    expect_full_capacity,
    in_thread,
    wait_for_waiters,
)
from tests.support.forking import DRIVER, Child, ask, fork_in_c, forking_in_c, in_child, sessions
from tests.support.servers import Postgres
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")


@pytest.fixture
def new_pool(new_pool: MakePool) -> MakePool:
    """Make pools on the driver that this run is about."""
    return lambda conninfo="", **options: new_pool(conninfo, **{"driver": DRIVER, **options})


@pytest.fixture(autouse=True)
def _in_c() -> Iterator[None]:
    """Have all children here forked behind Python's back."""
    with forking_in_c():
        yield


# What the child does first, and with what of its parent's in its hands


class Inherited:
    """A pool with one connection idle, one lent, one in a block and one of the health check."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.check = HealthCheck(lambda: {"default": pool}, deadline=PATIENCE)
        self.block = pool.connection()
        self.in_block = self.block.__enter__()
        self.lent = pool.getconn()
        ask(pool)

    def health(self) -> int:
        return self.check.respond("GET", "/healthz/db", "", {}, "")[0]


def returns_it(parent: Inherited) -> None:
    parent.pool.putconn(parent.lent)


def leaves_the_block(parent: Inherited) -> None:
    parent.in_block = None
    with pytest.raises(Exception, match=r"."):
        parent.block.__exit__(None, None, None)  # its transaction is the parent's to end


def leaves_the_block_by_an_error(parent: Inherited) -> None:
    parent.block.__exit__(KeyError, KeyError(), None)


def owns_it(parent: Inherited) -> None:
    with pytest.raises(ValueError, match="has not lent"):
        parent.pool.own(parent.lent, threading.current_thread())


def reports_it(parent: Inherited) -> None:
    assert not parent.pool.report(parent.lent, ValueError())


def makes_another_pool(parent: Inherited) -> None:
    with ConnectionPool(inside.conninfo(parent.pool), driver=DRIVER, max_size=1) as mine:
        session = ask(mine)
        ask(parent.pool)
        assert ask(mine) == session, "its own is not taken for the parent's"


def is_asked_for_stats(parent: Inherited) -> None:
    for stats in (parent.pool.get_stats(), parent.pool.pop_stats()):
        assert stats["pool_size"] == stats["requests_num"] == stats["connections_num"] == 0


def is_healthy(parent: Inherited) -> None:
    assert parent.health() == 200


FIRST: dict[str, Callable[[Inherited], object]] = {
    "nothing": lambda parent: None,
    "acquires": lambda parent: parent.pool.putconn(parent.pool.getconn(PATIENCE)),
    "returns": returns_it,
    "leaves the block": leaves_the_block,
    "leaves the block by an error": leaves_the_block_by_an_error,
    "owns": owns_it,
    "reports": reports_it,
    "opens": lambda parent: parent.pool.open(),
    "waits": lambda parent: parent.pool.wait(PATIENCE),
    "closes": lambda parent: parent.pool.close(),
    "drains": lambda parent: parent.pool.drain(),
    "resizes": lambda parent: parent.pool.resize(0, 1),
    "pauses": lambda parent: (parent.pool.pause(PATIENCE), parent.pool.resume()),
    "checks": lambda parent: parent.pool.check(),
    "asks for stats": is_asked_for_stats,
    "asks for the state": lambda parent: parent.pool.state,
    "asks for its health": is_healthy,
    "makes another pool": makes_another_pool,
}


def test_whatever_a_child_does_first_its_parents_sessions_are_left_alone(
    server: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(server.dsn(), max_size=3)
    parent = Inherited(pool)
    theirs = [conn.info.backend_pid for conn in (parent.lent, parent.in_block)] + [ask(pool)]
    one(parent.in_block, "SELECT 1")  # a transaction is open

    def child(first: str) -> int:
        FIRST[first](parent)
        return -1 if pool.closed else ask(pool)

    for first in FIRST:
        assert in_child(lambda first=first: child(first)) not in theirs, first
        assert one(parent.in_block, "SELECT 8") == 8, first
        assert one(parent.lent, "SELECT 9") == 9, first
    parent.block.__exit__(None, None, None)
    pool.putconn(parent.lent)
    del parent.in_block, parent.lent
    assert sessions(pool, 3) == set(theirs)


def test_no_session_serves_two_of_parent_children_and_grandchildren(
    server: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(server.dsn(), max_size=2)
    mine = sessions(pool, 2)

    def grandchild() -> set[int]:
        return sessions(pool, 2)

    def child() -> list[set[int]]:
        return [sessions(pool, 2), in_child(grandchild), sessions(pool, 2)]

    def idle_child() -> set[int]:
        return in_child(grandchild)  # of a process that has not noticed that it is one

    first, second = Child(child), Child(child)
    alone = in_child(idle_child)
    assert sessions(pool, 2) == mine
    (a, below_a, again_a), (b, below_b, again_b) = first.result(), second.result()
    assert (a, b) == (again_a, again_b)
    assert len(mine | a | b | below_a | below_b | alone) == 12
    expect_full_capacity(pool)


# Once, by whoever comes first


@pytest.mark.parametrize("in_c", [True, False])
def test_a_child_begins_anew_once_however_it_was_forked(in_c: bool, stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    pool.putconn(pool.getconn())
    times: list[int] = []
    inside.on_child(lambda: times.append(os.getpid()))
    fork = fork_in_c if in_c else os.fork

    def descend(generations: int) -> None:
        """Use the pool in a line of children of both kinds."""
        for _ in range(2):
            pool.putconn(pool.getconn(PATIENCE))
            pool.get_stats()
        assert times[-1:] == [os.getpid()], "this process has begun anew"
        assert len(times) == len(set(times)), "each has once"
        if generations:
            child = (os.fork if generations % 2 else fork_in_c)()
            if child == 0:
                try:
                    descend(generations - 1)
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0, "a child further down has failed"

    try:
        child = fork()
        if child == 0:
            try:
                descend(2)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert times == [], "the parent is none"
    finally:
        inside.forget_last_on_child()


def test_threads_of_a_child_that_come_at_once_wait_for_the_first(
    postgres: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(postgres.dsn(), max_size=4)
    mine = sessions(pool, 4)
    times: list[int] = []

    def slowly() -> None:
        times.append(1)
        for _ in range(20):
            threading.Event().wait(0.001)  # let the others come

    inside.on_child(slowly)

    def child() -> tuple[set[int], int]:
        together = threading.Barrier(4)

        def use() -> int:
            together.wait(PATIENCE)
            conn = pool.getconn(PATIENCE)
            together.wait(PATIENCE)
            assert one(conn, "SELECT 3") == 3
            conn.rollback()
            pool.putconn(conn)
            return int(conn.info.backend_pid)

        users = [in_thread(use) for _ in range(4)]
        return {user.result(PATIENCE) for user in users}, len(times)

    try:
        theirs, count = in_child(child)
    finally:
        inside.forget_last_on_child()
    assert len(theirs) == 4
    assert theirs.isdisjoint(mine)
    assert count == 1
    assert sessions(pool, 4) == mine


def test_a_beginning_that_is_interrupted_is_made_again(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    pool.putconn(pool.getconn())
    # The first strikes in a hook that Python calls, which it only reports.
    interrupts = [KeyboardInterrupt(), MemoryError(), MemoryError()]

    def interrupt() -> None:
        if interrupts:
            raise interrupts.pop()

    inside.on_child(interrupt)

    def child() -> int:
        with pytest.raises(MemoryError):
            pool.getconn()
        with pytest.raises(KeyboardInterrupt):
            pool.get_stats()
        pool.putconn(pool.getconn(PATIENCE))
        return int(pool.get_stats()["connections_num"])

    try:
        assert in_child(child) == 1
    finally:
        inside.forget_last_on_child()


# What else is the parent's alone


def test_locks_that_another_thread_holds_are_not_held_in_the_child(
    postgres: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(postgres.dsn(), max_size=2)
    mine = sessions(pool, 2)

    def child() -> set[int]:
        return sessions(pool, 2)

    with Held(inside.lock(pool), inside.lock(inside.scheduler), inside.servers_lock()):
        forked = Child(child)
    assert forked.result().isdisjoint(mine)
    assert sessions(pool, 2) == mine


def test_the_scheduler_looks_after_the_child(postgres: Postgres, new_pool: MakePool) -> None:
    pool = new_pool(postgres.dsn(), min_size=2, max_size=3)
    pool.wait(PATIENCE)
    theirs = inside.original("scheduler_thread")
    assert theirs is not None

    def child() -> None:
        ask(pool)
        wait_until(lambda: pool.get_stats()["pool_available"] == 2, PATIENCE, "it is filled")
        mine = inside.original("scheduler_thread")
        assert mine is not theirs
        assert mine.is_alive()

    in_child(child)


def test_max_use_ends_what_is_held_in_the_child(postgres: Postgres, new_pool: MakePool) -> None:
    pool = new_pool(postgres.dsn(), max_size=1, max_use=0.1)
    ask(pool)
    inside.put_cancelling([threading.current_thread()] * 2)  # as many as may be, all "alive"

    def child() -> str:
        with pytest.raises(Exception, match=r".") as caught, pool.connection() as conn:
            one(conn, "SELECT pg_sleep(%s)", PATIENCE)
        ask(pool)
        return str(caught.value)

    try:
        assert "canceling statement" in in_child(child)
    finally:
        inside.put_cancelling([])


def test_waiters_and_the_pace_of_a_server_that_is_down_stay_with_the_parent(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    def refuse(_: object) -> None:
        raise stub.OperationalError("no server here")

    pool = stub_pool(max_size=1, timeout=PATIENCE, down_wait=PATIENCE, admission="codel")
    stub.hooks["connect"] = refuse
    waiting = in_thread(pool.getconn)
    wait_until(lambda: pool.state == "down", PATIENCE)
    wait_for_waiters(pool, 1)

    def child() -> tuple[str, int]:
        stub.hooks.clear()
        pool.putconn(pool.getconn(PATIENCE))
        return pool.state, int(pool.get_stats()["requests_waiting"])

    assert in_child(child) == ("ok", 0)
    stub.hooks.clear()
    pool.putconn(waiting.result(PATIENCE))


def test_connects_and_forks_under_way_in_the_parent_are_none_of_the_childs(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    go, inside_it = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        inside_it.set()
        go.wait(PATIENCE)

    pool = stub_pool(max_size=1)
    stub.hooks["connect"] = hang
    caller = in_thread(pool.getconn)
    assert inside_it.wait(PATIENCE)
    known = inside.under_way_at_forks()
    assert any(known)

    def child() -> list[int]:
        stub.hooks.clear()
        assert pool.get_stats()["pool_size"] == 0
        found = [len(each) for each in known]
        pool.putconn(pool.getconn(PATIENCE))
        return found

    assert not any(in_child(child))
    go.set()
    pool.putconn(caller.result(PATIENCE))


def test_health_is_the_childs_own(postgres: Postgres, new_pool: MakePool) -> None:
    pool = new_pool(postgres.dsn(), max_size=1)
    held = pool.getconn()  # so that the probe has a connection of its own
    check = HealthCheck(lambda: {"default": pool}, deadline=PATIENCE, ttl=0.001)

    def answered() -> int:
        return check.respond("GET", "/healthz/db", "", {}, "")[0]

    def spare() -> int | None:
        found = inside.peek(inside.prober_of(pool), "spare")
        return None if found is None else int(found.conn.info.backend_pid)

    assert answered() == 200
    inside.put(pool, proved_at=-1e9)
    wait_until(lambda: answered() == 200 and spare() is not None, PATIENCE)
    theirs = spare()

    def child() -> int | None:
        assert answered() == 200
        taken = pool.getconn(PATIENCE)
        inside.put(pool, proved_at=-1e9)
        wait_until(lambda: answered() == 200 and spare() is not None, PATIENCE)
        pool.putconn(taken)
        return spare()

    assert in_child(child) not in (None, theirs)
    assert spare() == theirs
    pool.putconn(held)


def test_a_child_that_says_that_it_drains_first_of_all_is_draining() -> None:
    def child() -> tuple[bool, bool]:
        before = health.is_draining()
        health.set_draining()
        return before, health.is_draining()

    def says_so_first() -> bool:
        health.set_draining()
        return health.is_draining()

    health.set_draining()
    try:
        assert in_child(child) == (False, True)
    finally:
        health.set_draining(False)
    assert in_child(says_so_first)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_child_has_sqlite_connections_of_its_own(
    where: str, new_pool: MakePool, tmp_path: Path
) -> None:
    url = "sqlite://" if where == "memory" else f"sqlite:///{tmp_path / 'db'}"
    pool = new_pool(url, driver=None)
    with pool.connection() as conn:
        conn.execute("CREATE TABLE t (i int)")
        conn.execute("INSERT INTO t VALUES (1)")

    def child() -> list[Any]:
        with pool.connection(PATIENCE) as conn:
            tables = conn.execute("SELECT name FROM sqlite_master").fetchall()
            if not tables:
                conn.execute("CREATE TABLE t (i int)")
            conn.execute("INSERT INTO t VALUES (2)")
        return [len(tables), pool.get_stats()["connections_num"]]

    held = pool.getconn()
    assert in_child(child) == [int(where == "file"), 1]
    assert in_child(lambda: pool.putconn(held)) is None
    found = held.execute("SELECT i FROM t ORDER BY i").fetchall()
    pool.putconn(held)
    assert found == ([(1,)] if where == "memory" else [(1,), (2,)])


# Programs: the end of a child, uWSGI's hook, and kernels that wipe nothing

PROGRAM = """
import ctypes, gc, os, sys
from dbpool import ConnectionPool
dsn, driver, ending = sys.argv[1:]
pool = ConnectionPool(dsn, driver=driver, min_size=2, max_size=3, name="program")
pool.wait(30)
held = pool.getconn()
def pids():
    taken = [pool.getconn(20) for _ in range(2)]
    found = sorted(conn.info.backend_pid for conn in taken)
    for conn in taken:
        conn.cursor().execute("SELECT 1")
        conn.rollback()
        pool.putconn(conn)
    return found
mine = pids()
child = ctypes.PyDLL(None).fork()
if child == 0:
    exec(ending)
else:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    held.cursor().execute("SELECT 1")
    held.rollback()
    assert pids() == mine, "the parent lost a session"
    pool.putconn(held)
    print("parent fine", flush=True)
"""


def expect_a_fine_parent(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "parent fine\n", "")


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit()",
        "os._exit(0)",
        "pids(); sys.exit()",
        "pool.close(); sys.exit()",
        "pool.putconn(held); sys.exit()",
        "pool = held = None; gc.collect(); sys.exit()",
    ],
)
def test_the_end_of_a_child_leaves_the_parents_sessions(ending: str, postgres: Postgres) -> None:
    expect_a_fine_parent("-c", PROGRAM, postgres.dsn(), DRIVER, ending)


def test_where_no_page_is_wiped_the_number_of_the_process_tells(postgres: Postgres) -> None:
    old_kernel = """
import mmap
class Old(mmap.mmap):
    def madvise(self, *args):
        raise OSError(22, "Invalid argument")
mmap.mmap = Old
import dbpool._runtime.process
assert not isinstance(dbpool._runtime.process.unforked, __import__("ctypes").c_bool)
"""
    ending = "assert not set(pids()) & set(mine); sys.exit()"
    expect_a_fine_parent("-c", old_kernel + PROGRAM, postgres.dsn(), DRIVER, ending)


def test_uwsgis_hook_is_taken_and_who_had_it_before_is_called_too(postgres: Postgres) -> None:
    inside_uwsgi = """
import sys, types
uwsgi = sys.modules["uwsgi"] = types.ModuleType("uwsgi")
called = []
uwsgi.post_fork_hook = lambda: called.append(1)
"""
    # What was taken and is used without its pool: no look of ours comes in between.
    ending = """
uwsgi.post_fork_hook()
assert called == [1]
try:
    held.cursor().execute("SELECT 1")
except Exception:
    sys.exit()
raise SystemExit(5)
"""
    expect_a_fine_parent("-c", inside_uwsgi + PROGRAM, postgres.dsn(), DRIVER, ending)


def test_a_caller_gets_an_error_and_no_answer_on_what_was_lent_at_the_fork(
    postgres: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(postgres.dsn(), max_size=2)
    held = pool.getconn()

    def child() -> None:
        ask(pool)
        with pytest.raises(Exception, match=r"."):
            one(held, "SELECT 1")
        pool.putconn(held)
        with pytest.raises((ValueError, PoolError)):
            pool.putconn(held)

    in_child(child)
    assert one(held, "SELECT 1") == 1
    held.rollback()
    pool.putconn(held)
