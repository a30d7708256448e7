"""Pools survive fork: the child's start empty, and what is the parent's is left alone."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dbpool import ConnectionPool, PoolClosed
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    Held,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    settled,
    wait_for_waiters,
)
from tests.support.forking import DRIVER, Child, ask, in_child, sessions
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import one, run_sql
from tests.support.stub_driver import StubDriver
from tests.support.threads import KEEPER
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
# 3.12 and later warn of any fork with threads about; that is what is tested here.
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture
def new_pool(new_pool: MakePool) -> MakePool:
    """Make pools on the driver that this run is about."""
    return lambda conninfo="", **options: new_pool(conninfo, **{"driver": DRIVER, **options})


# What the child does with it


def nothing(pool: ConnectionPool) -> None:
    pass


def take_and_return(pool: ConnectionPool) -> None:
    pool.putconn(pool.getconn(PATIENCE))


def use_it(pool: ConnectionPool) -> None:
    ask(pool)


def use_and_close_it(pool: ConnectionPool) -> None:
    ask(pool)
    pool.close()


def close_it(pool: ConnectionPool) -> None:
    pool.close()


def collect(pool: ConnectionPool) -> None:
    gc.collect()
    inside.clear(pool)
    gc.collect()


@pytest.mark.parametrize("act", [nothing, use_it, use_and_close_it, close_it, collect])
def test_idle_sessions_of_the_parent_survive_whatever_the_child_does(
    act: Callable[[ConnectionPool], None], server: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(server.dsn(), max_size=3)
    mine = sessions(pool, 3)
    in_child(lambda: act(pool))
    assert sessions(pool, 3) == mine
    expect_full_capacity(pool)


def test_the_childs_pool_starts_empty_and_has_its_full_capacity(
    server: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(server.dsn(), max_size=3)
    mine = sessions(pool, 3)

    def child() -> tuple[dict[str, Any], set[int]]:
        before = pool.get_stats()
        inside.audit(pool)
        expect_full_capacity(pool)
        return before, sessions(pool, 3)

    stats, theirs = in_child(child)
    assert stats["pool_size"] == stats["requests_num"] == stats["connections_num"] == 0
    assert theirs.isdisjoint(mine)
    assert pool.get_stats()["connections_num"] == 3


def test_no_session_ever_serves_two_processes(server: Postgres, new_pool: MakePool) -> None:
    """Parent and children query at the same time; every answer is the asker's own."""
    pool = new_pool(server.dsn(), max_size=4)
    ask(pool)

    def query(count: int = 40) -> tuple[int, list[int]]:
        found: set[int] = set()

        def work(number: int) -> None:
            for turn in range(count):
                token = os.getpid() * 100_000 + number * 1000 + turn
                with pool.connection() as conn:
                    assert one(conn, "SELECT %s::bigint", token) == token
                    found.add(conn.info.backend_pid)

        for worker in [in_thread(work, number) for number in range(4)]:
            worker.result(PATIENCE)
        return os.getpid(), sorted(found)

    users: dict[int, set[int]] = defaultdict(set)
    children = [Child(query) for _ in range(3)]
    for pid, backends in [query(), *[child.result() for child in children], query()]:
        for backend in backends:
            users[backend].add(pid)
    assert {backend: pids for backend, pids in users.items() if len(pids) > 1} == {}
    expect_full_capacity(pool)


def token_of_ones_own(pool: ConnectionPool) -> tuple[int, int]:
    return os.getpid(), ask(pool)


COUNTS = [20, pytest.param(200, marks=pytest.mark.exhaustive)]


def expect_one_process_each(answers: list[tuple[int, int]]) -> None:
    """Fail if a session has answered more than one process."""
    users: dict[int, set[int]] = defaultdict(set)
    for process, session in answers:
        users[session].add(process)
    assert [pids for pids in users.values() if len(pids) > 1] == []


@pytest.mark.parametrize("count", COUNTS)
def test_many_children_in_turn(server: Postgres, new_pool: MakePool, count: int) -> None:
    pool = new_pool(server.dsn(), max_size=2)
    mine = sessions(pool, 2)
    answers = []
    for _ in range(count):
        answers += [in_child(lambda: token_of_ones_own(pool)), token_of_ones_own(pool)]
    expect_one_process_each(answers)
    assert len({process for process, _ in answers}) == count + 1
    assert sessions(pool, 2) == mine


@pytest.mark.parametrize("count", COUNTS)
def test_many_children_at_once(server: Postgres, new_pool: MakePool, count: int) -> None:
    pool = new_pool(server.dsn(), max_size=2)
    mine = sessions(pool, 2)
    answers = []
    for _ in range(count // 20):
        children = [Child(lambda: token_of_ones_own(pool)) for _ in range(20)]
        answers += [token_of_ones_own(pool) for _ in range(20)]
        answers += [child.result() for child in children]
    expect_one_process_each(answers)
    assert len({process for process, _ in answers}) == count + 1
    assert sessions(pool, 2) == mine


def test_a_lent_one_goes_on_in_the_parent_with_its_transaction(
    server: Postgres, new_pool: MakePool
) -> None:
    run_sql(server, "CREATE TABLE IF NOT EXISTS over_a_fork (i int)")
    run_sql(server, "TRUNCATE over_a_fork")
    pool = new_pool(server.dsn(), max_size=2)
    held = [pool.getconn()]
    held[0].cursor().execute("INSERT INTO over_a_fork VALUES (1)")

    def returns_it() -> None:
        pool.putconn(held.pop())
        expect_full_capacity(pool)

    def closes_it() -> None:
        held[0].close()
        ask(pool)

    def drops_it() -> None:
        held.clear()
        gc.collect()
        settled(pool)
        assert pool.get_stats()["connections_dropped"] == 0
        ask(pool)

    def cannot_use_it() -> None:
        with pytest.raises(Exception, match=r"."):
            held[0].cursor().execute("INSERT INTO over_a_fork VALUES (666)")

    for act in (returns_it, closes_it, drops_it, cannot_use_it):
        in_child(act)
        held[0].cursor().execute("INSERT INTO over_a_fork VALUES (2)")
    held[0].commit()
    assert run_sql(server, "SELECT sum(i) FROM over_a_fork") == [(9,)]
    pool.putconn(held.pop())
    expect_full_capacity(pool)


def test_a_second_return_in_the_child_is_refused(stub_pool: MakePool) -> None:
    pool = stub_pool()
    conn = pool.getconn()

    def child() -> None:
        pool.putconn(conn)
        with pytest.raises(ValueError, match="has not lent"):
            pool.putconn(conn)

    in_child(child)
    pool.putconn(conn)


def test_a_block_around_the_fork_ends_in_both(server: Postgres, new_pool: MakePool) -> None:
    pool = new_pool(server.dsn(), max_size=1)
    block = pool.connection()
    with block as conn:
        in_child(lambda: block.__exit__(None, None, None))
        in_child(lambda: block.__exit__(KeyError, KeyError(), None))
        in_child(lambda: block.__exit__(SystemExit, SystemExit(), None))
        assert one(conn, "SELECT 8") == 8
    expect_full_capacity(pool)


def test_a_block_that_the_child_leaves_first_is_committed_by_the_parent_alone(
    server: Postgres, new_pool: MakePool
) -> None:
    run_sql(server, "CREATE TABLE IF NOT EXISTS in_a_block (i int)")
    run_sql(server, "TRUNCATE in_a_block")
    pool = new_pool(server.dsn(), max_size=1)

    def leaves_it(error: BaseException | None) -> None:
        if error is None:  # it must not take for committed what only the parent can commit
            with pytest.raises(pool.driver.OperationalError.__bases__[0]):
                block.__exit__(None, None, None)
        else:
            block.__exit__(type(error), error, None)
        ask(pool)

    for error in (None, SystemExit(), KeyError()):
        block = pool.connection()
        conn = block.__enter__()
        conn.cursor().execute("INSERT INTO in_a_block VALUES (1)")
        in_child(lambda error=error: leaves_it(error))
        assert one(conn, "SELECT count(*) FROM in_a_block") == 1
        assert run_sql(server, "SELECT count(*) FROM in_a_block") == [(0,)]
        del conn
        block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert run_sql(server, "SELECT count(*) FROM in_a_block") == [(0,)]
    expect_full_capacity(pool)


def test_a_waiter_of_the_parent_is_none_in_the_child(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    with lent(pool, 2):
        waiting = [in_thread(take_and_return, pool) for _ in range(3)]
        wait_for_waiters(pool, 3)

        def child() -> None:
            assert pool.get_stats()["requests_waiting"] == 0
            expect_full_capacity(pool)

        in_child(child)
    for future in waiting:
        future.result(PATIENCE)
    expect_full_capacity(pool)


def test_a_connect_under_way_is_the_parents_alone(stub_pool: MakePool, stub: StubDriver) -> None:
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    pool = stub_pool(min_size=2, max_size=2)
    wait_until(lambda: len(inside.attempts(pool)) == 2, PATIENCE)

    def child() -> None:
        stub.hooks.clear()
        assert pool.get_stats()["pool_size"] == 0
        expect_full_capacity(pool)

    in_child(child)
    go.set()
    pool.wait(PATIENCE)
    expect_full_capacity(pool)


def test_a_connect_under_way_is_sent_no_byte_by_the_child(new_pool: MakePool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(PATIENCE)
        port = listener.getsockname()[1]
        pool = new_pool(f"host=127.0.0.1 port={port} user=u dbname=d sslmode=disable", min_size=1)
        client, _ = listener.accept()
        with client:
            client.settimeout(PATIENCE)
            size = int.from_bytes(client.recv(4), "big")
            assert len(client.recv(size - 4)) == size - 4
            in_child(lambda: collect(pool))
            in_child(lambda: close_it(pool))
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
        pool.close(timeout=0)
    wait_until(lambda: not inside.attempts(pool), PATIENCE)


def test_the_keeper_runs_in_the_child_from_its_first_use_on(
    server: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(server.dsn(), min_size=2, max_size=4)
    pool.wait(PATIENCE)
    assert any(thread.name == KEEPER for thread in threading.enumerate())

    def child() -> int:
        assert threading.active_count() == 1, "no thread starts in the fork itself"
        assert pool.get_stats()["pool_size"] == 0
        ask(pool)
        wait_until(lambda: pool.get_stats()["pool_available"] >= 2, 20, "its minimum is filled")
        return sum(thread.name == KEEPER for thread in threading.enumerate())

    assert in_child(child) == 1
    expect_full_capacity(pool)


def test_a_child_that_uses_no_pool_starts_no_thread_and_connects_nowhere(
    server: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(server.dsn(), min_size=2, name="unused in the child")
    pool.wait(PATIENCE)

    def child() -> tuple[int, int]:
        time.sleep(0.05)
        return threading.active_count(), count_sessions(server, "dbpool:unused in the child")

    assert in_child(child) == (1, 2)


def test_a_lock_that_another_thread_holds_is_not_held_in_the_child(
    server: Postgres, new_pool: MakePool
) -> None:
    pool = new_pool(server.dsn(), max_size=2)
    mine = sessions(pool, 2)

    def child() -> set[int]:
        expect_full_capacity(pool)
        pool.drain()
        pool.check()
        return sessions(pool, 2)

    with Held(inside.lock(pool), inside.lock(inside.scheduler)):
        forked = Child(child)
    assert forked.result().isdisjoint(mine)
    assert sessions(pool, 2) == mine


class Owner:
    """Answers for a lent connection, and may fail when it is told of a fork."""

    told: ClassVar[list[str]] = []

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails

    def is_alive(self) -> bool:
        return True

    def forked(self) -> None:
        self.told.append(self.name)
        if self.fails:
            raise ValueError(self.name)


def test_each_owner_is_told_of_the_fork_once_though_others_fail(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=3)
    owners = [Owner("first"), Owner("second", fails=True), Owner("third")]
    with lent(pool, 3) as taken:
        for conn, owner in zip(taken, owners, strict=True):
            pool.own(conn, owner)
        assert sorted(in_child(lambda: Owner.told)) == ["first", "second", "third"]


def test_forks_under_load_harm_neither_side(server: Postgres, new_pool: MakePool) -> None:
    pool = new_pool(server.dsn(), max_size=3)
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            ask(pool)

    workers = [in_thread(work) for _ in range(4)]
    try:
        for _ in range(12):
            in_child(lambda: [ask(pool) for _ in range(3)])
    finally:
        end.set()
    for worker in workers:
        worker.result(PATIENCE)
    assert pool.get_stats()["connections_closed"] == {}
    assert pool.get_stats()["requests_errors"] == 0
    expect_full_capacity(pool)


def test_a_fork_in_another_thread_is_no_different(server: Postgres, new_pool: MakePool) -> None:
    pool = new_pool(server.dsn(), max_size=2)
    mine = sessions(pool, 2)
    theirs = in_thread(lambda: in_child(lambda: sessions(pool, 2))).result(PATIENCE)
    assert theirs.isdisjoint(mine)
    assert sessions(pool, 2) == mine


def test_a_grandchild_has_a_pool_of_its_own_too(server: Postgres, new_pool: MakePool) -> None:
    pool = new_pool(server.dsn(), max_size=2)
    mine = sessions(pool, 2)
    lent_in_parent = pool.getconn()

    def grandchild() -> set[int]:
        pool.putconn(lent_in_parent)
        return sessions(pool, 2)

    def child() -> tuple[set[int], set[int]]:
        ours = sessions(pool, 2)
        theirs = in_child(grandchild)
        assert sessions(pool, 2) == ours
        return ours, theirs

    ours, theirs = in_child(child)
    assert len(mine | ours | theirs) == 6
    pool.putconn(lent_in_parent)
    assert sessions(pool, 2) == mine


def test_what_a_pool_is_is_the_same_in_the_child(stub_pool: MakePool) -> None:
    closed, new = stub_pool(), stub_pool(open=False)
    closed.close()

    def child() -> None:
        for pool, words in ((closed, "is closed"), (new, "is not open yet")):
            inside.audit(pool)
            with pytest.raises(PoolClosed, match=words):
                pool.getconn()
        new.open()
        expect_full_capacity(new)

    in_child(child)
    assert new.closed


def test_the_child_warns_of_nothing(stub_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dbpool")
    pool = stub_pool(max_size=2, min_size=1)
    held = [pool.getconn()]

    def child() -> list[str]:
        caplog.clear()
        held.clear()
        gc.collect()
        inside.find_lost(pool)
        return [record.getMessage() for record in caplog.records]

    assert in_child(child) == []
    pool.putconn(held.pop())


_pool: ConnectionPool | None = None


def _asked(_: int) -> int:
    assert _pool is not None
    return ask(_pool)


def test_multiprocessing_workers_have_sessions_of_their_own(
    server: Postgres, new_pool: MakePool
) -> None:
    global _pool
    _pool = new_pool(server.dsn(), max_size=2)
    mine = sessions(_pool, 2)
    with multiprocessing.get_context("fork").Pool(2) as workers:
        theirs = set(workers.map(_asked, range(20), chunksize=1))
    assert theirs.isdisjoint(mine)
    assert 1 <= len(theirs) <= 2
    assert sessions(_pool, 2) == mine
    _pool = None


# Through the whole end of an interpreter, in a program of its own

PROGRAM = """
import gc, os, sys, threading
from dbpool import ConnectionPool
dsn, driver, ending = sys.argv[1:]
pool = ConnectionPool(dsn, driver=driver, min_size=2, max_size=3, name="program")
pool.wait(30)
held = pool.getconn()
def pids():
    taken = [pool.getconn() for _ in range(2)]
    found = sorted(conn.info.backend_pid for conn in taken)
    for conn in taken:
        conn.cursor().execute("SELECT 1")
        conn.rollback()
        pool.putconn(conn)
    return found
mine = pids()
child = os.fork()
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


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit()",
        "os._exit(0)",
        "gc.collect(); sys.exit()",
        "held.close(); sys.exit()",
        "del held; gc.collect()",
        "pids(); sys.exit()",
        "pids(); os._exit(0)",
        "pool.close(); sys.exit()",
        "pool = held = None; gc.collect(); sys.exit()",
        "pool.putconn(held); sys.exit()",
    ],
)
def test_the_end_of_a_child_leaves_the_parents_sessions(ending: str, server: Postgres) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-W", "ignore", "-c"),
            *(PROGRAM, server.dsn(), DRIVER, ending),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "parent fine\n", "")


ORPHAN = """
import os, sys, time
from dbpool import ConnectionPool
dsn, driver = sys.argv[1:]
pool = ConnectionPool(dsn, driver=driver, min_size=3, name="of a dead parent")
pool.wait(30)
if os.fork() == 0:
    print(os.getpid(), flush=True)
    sys.stdin.read()          # lives until the test lets it go, and never uses the pool
    os._exit(0)
sys.stdout.flush()
os._exit(0)                   # as when it is killed
"""


def test_no_session_of_a_dead_parent_is_kept_alive_by_its_child(server: Postgres) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", ORPHAN, server.dsn(), DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as program:
        assert program.stdout
        assert program.stdin
        orphan = int(program.stdout.readline())
        program.wait(PATIENCE)
        wait_until(lambda: count_sessions(server, "dbpool:of a dead parent") == 0, PATIENCE)
        os.kill(orphan, 0)  # it is there still
        program.stdin.close()
