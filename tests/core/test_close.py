"""Closing: waiters are told at once, nothing stays open, and a process ends without a word."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import pytest

from dbpool import ConnectionPool, PoolClosed
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    settled,
    wait_for_waiters,
)
from tests.support.gate import Gate
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.threads import pool_threads
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def test_waiters_are_told_at_once(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, name="shop")
    held = pool.getconn()
    callers = [in_thread(pool.getconn, 100 * PATIENCE) for _ in range(5)]
    wait_for_waiters(pool, 5)
    pool.close()
    for caller in callers:
        with pytest.raises(PoolClosed, match="'shop' was closed while this caller waited"):
            caller.result(PATIENCE)
    assert len({id(caller.exception()) for caller in callers}) == 5
    pool.putconn(held)


def test_who_waits_for_the_minimum_is_told_too(stub_pool: MakePool, stub: StubDriver) -> None:
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    pool = stub_pool(min_size=2)
    caller = in_thread(pool.wait, 100 * PATIENCE)
    wait_until(lambda: inside.filling(pool), PATIENCE)
    pool.close(timeout=0)
    with pytest.raises(PoolClosed):
        caller.result(PATIENCE)
    go.set()


def test_idle_ones_close_now_and_lent_ones_when_they_come_back(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=3, name="closing")
    with lent(pool, 3) as taken:
        pool.putconn(taken.pop())
        pool.close()
        wait_until(lambda: count_sessions(postgres, "dbpool:closing") == 2, PATIENCE)
        assert [one(conn, "SELECT 7") for conn in taken] == [7, 7], "a borrower can go on"
        inside.audit(pool)
        in_thread(pool.putconn, taken.pop()).result(PATIENCE)
        assert pool.get_stats()["pool_size"] == 1
    wait_until(lambda: count_sessions(postgres, "dbpool:closing") == 0, PATIENCE)
    settled(pool)
    assert pool.get_stats()["connections_closed"] == {"closed": 3}


@pytest.mark.parametrize("options", [{}, {"validate": "ping"}, {"reset": lambda conn: None}])
def test_a_late_return_closes_whatever_the_options(
    options: dict[str, object], stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=2, **options)
    with lent(pool, 2) as taken:
        stub.begin(taken[0])
        pool.close()
    assert stub.open_connections == 0
    assert pool.get_stats()["pool_size"] == 0


def test_a_block_that_is_open_meanwhile_still_commits(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool()
    with pool.connection() as conn:
        conn.cursor().execute("CREATE TABLE IF NOT EXISTS committed_late (i int)")
        pool.close()
    assert conn.closed
    with pg_pool().connection() as other:
        assert one(other, "SELECT to_regclass('committed_late') IS NOT NULL")


def test_a_closed_pool_says_so_and_cannot_be_opened_again(stub_pool: MakePool) -> None:
    pool = stub_pool(name="shop")
    assert not pool.closed
    pool.close()
    assert pool.closed
    for call in (pool.getconn, pool.open, pool.wait, pool.__enter__, pool.connection().__enter__):
        with pytest.raises(PoolClosed, match="'shop' is closed, and a closed pool cannot be"):
            call()


def test_closing_twice_or_what_was_never_opened_is_harmless(stub_pool: MakePool) -> None:
    pool, never = stub_pool(), stub_pool(open=False)
    pool.putconn(pool.getconn())
    for _ in range(2):
        pool.close()
        pool.close(timeout=0)
        never.close()
    inside.audit(pool)
    inside.audit(never)
    assert pool.closed
    assert never.closed


def test_a_waiter_that_two_tell_of_the_close_is_woken_once() -> None:
    waiter = inside.Waiter(time.monotonic())
    assert waiter.deliver(inside.CLOSED)
    waiter.deliver(inside.CLOSED)
    assert waiter.wait(PATIENCE)
    assert waiter.withdraw() is inside.CLOSED


def test_many_threads_may_close_at_once(stub_pool: MakePool, stub: StubDriver) -> None:
    for _ in range(30):
        pool = stub_pool(max_size=2)
        with lent(pool, 2):
            callers = [in_thread(pool.getconn, 100 * PATIENCE) for _ in range(4)]
            wait_for_waiters(pool, 4)
            for closing in [in_thread(pool.close) for _ in range(4)]:
                closing.result(PATIENCE)
        for caller in callers:
            with pytest.raises(PoolClosed):
                caller.result(PATIENCE)
    assert stub.open_connections == 0


def test_close_under_load_leaves_nothing_open(stub_pool: MakePool, stub: StubDriver) -> None:
    stub.hooks["connect"] = lambda _: time.sleep(0.001)

    def work(pool: ConnectionPool) -> None:
        while True:
            with pool.connection(100 * PATIENCE):
                time.sleep(0)

    for _ in range(10):
        pool = stub_pool(max_size=3, max_lifetime=0.01)
        callers = [in_thread(work, pool) for _ in range(8)]
        wait_until(lambda pool=pool: pool.get_stats()["requests_num"] > 20, PATIENCE)
        pool.close()
        for caller in callers:
            with pytest.raises(PoolClosed):
                caller.result(PATIENCE)
        settled(pool)
        assert stub.open_connections == 0


def test_a_connect_under_way_is_waited_for_as_long_as_asked(
    stub_pool: MakePool, stub: StubDriver, gate: Gate
) -> None:
    patient, hasty = stub_pool(min_size=1), stub_pool(min_size=1)
    gate.wait(2)
    in_thread(hasty.close, 0).result(PATIENCE)
    closing = in_thread(patient.close, PATIENCE)
    time.sleep(0.05)
    assert not closing.done()
    gate.open()
    closing.result(PATIENCE)
    settled(patient)
    settled(hasty)
    assert stub.open_connections == 0


def test_the_with_statement_opens_and_closes(stub: StubDriver) -> None:
    with ConnectionPool(driver=stub, open=False) as pool:
        assert not pool.closed
        expect_full_capacity(pool)
    assert pool.closed
    assert stub.open_connections == 0


# A pool that is dropped


def test_a_dropped_pool_goes_at_once_with_its_sessions_and_without_a_word(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()
    gc.disable()
    try:
        pool = ConnectionPool(postgres.dsn(), min_size=3, name="dropped pool")
        pool.wait(PATIENCE)
        wait_until(lambda: not pool_threads(), PATIENCE)
        ref = weakref.ref(pool)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del pool
            wait_until(lambda: ref() is None, PATIENCE, "nothing holds the pool")
    finally:
        gc.enable()
    wait_until(lambda: count_sessions(postgres, "dbpool:dropped pool") == 0, PATIENCE)
    assert warned == []
    assert caplog.records == []


def test_a_connection_outlives_its_dropped_pool(postgres: Postgres) -> None:
    conn = ConnectionPool(postgres.dsn()).getconn()
    gc.collect()
    assert one(conn, "SELECT 1") == 1
    conn.close()


def test_a_pool_dropped_while_it_connects_goes_too(stub: StubDriver, gate: Gate) -> None:
    pool = ConnectionPool(driver=stub, min_size=1)
    ref = weakref.ref(pool)
    gate.wait()
    del pool
    gate.open()
    wait_until(lambda: ref() is None, PATIENCE)
    wait_until(lambda: stub.open_connections == 0, PATIENCE)


# The end of the process

PROGRAM = """
import sys, threading, time
from dbpool import ConnectionPool, PoolClosed
dsn, ending = sys.argv[1:]
pools = [ConnectionPool(dsn, min_size=2, max_size=2) for _ in range(3)]
for pool in pools:
    pool.wait(30)
held = [pools[0].getconn(), pools[0].getconn(), pools[1].getconn()]
cursor = held[2].cursor()
cursor.execute("SELECT 1")
def ask():
    pools[0].getconn(timeout=600)
def work():
    while True:
        with pools[2].connection() as conn:
            conn.cursor().execute("SELECT 1")
def call(function):
    try:
        function()
    except PoolClosed:
        if ending != "after close":
            raise
for function in (ask, ask, work, work, work, work):
    threading.Thread(target=call, args=[function], daemon=True).start()
nowhere = ConnectionPool("host=127.0.0.1 port=1", min_size=1)
while pools[0].get_stats()["requests_waiting"] < 2:
    time.sleep(0.005)
print("ready", flush=True)
"""

ENDINGS = {
    "falls off its end": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("import os; os._exit(4)", 4),
    "with a lent one in a cycle": ("class A: pass\na = A(); a.me = a; a.conn = held.pop()", 0),
    "after close": ("for pool in pools: pool.close(0)", 0),
    "in an atexit handler": (
        (
            "import atexit; cursor.connection.rollback()\n"
            "atexit.register(lambda: pools[1].putconn(held.pop()))"
        ),
        0,
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_without_output_whatever_its_pools_are_doing(
    ending: str, postgres: Postgres
) -> None:
    code, status = ENDINGS[ending]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM + code, postgres.dsn(), ending],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )
    # The pool that cannot connect has said so; nothing else has anything to say.
    said = [line for line in done.stderr.splitlines() if "cannot connect" not in line]
    assert (done.returncode, done.stdout, said) == (status, "ready\n", [])


def test_a_process_ends_while_the_server_does_not_answer_a_connect(stub: StubDriver) -> None:
    """A listener that never accepts: the connect hangs in its thread, and nobody waits for it."""
    program = """
import socket
from dbpool import ConnectionPool
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    pool = ConnectionPool(f"host=127.0.0.1 port={listener.getsockname()[1]} dbname=x user=x",
                          min_size=1, connect_timeout=600)
    listener.accept()
    print("ready", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert "Traceback" not in done.stderr
    assert "Fatal" not in done.stderr
