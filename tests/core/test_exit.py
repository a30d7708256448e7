"""The end of a process: nobody waits for the pool, it says nothing, and work in threads goes on.

More of it in test_close.py.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.conftest import MakePool
from tests.support import inside
from tests.support.callers import PATIENCE
from tests.support.injection import explore
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import run_sql
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
NAME = "ending"

HEAD = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from dbpool import ConnectionPool, PoolTimeout
pool = ConnectionPool(sys.argv[1], max_size=2, min_size=1)

def run(conn, sql):
    with conn.cursor() as cursor:
        cursor.execute(sql)

def wait_for(condition):
    while not condition():
        time.sleep(0.005)

def waiting(count):
    wait_for(lambda: pool.get_stats()["requests_waiting"] >= count)
"""

TOO_LATE = (
    "PoolClosed pool 'pool-1': the interpreter ends, and no connection is idle: use the pool "
    "before the program ends, not in a destructor\n"
)

PROGRAMS = {
    "sys.exit in a block": (
        """
with pool.connection() as conn:
    run(conn, "CREATE TABLE never_committed (i int)")
    sys.exit(3)
""",
        (3, ""),
    ),
    "an exit in a block inside a block, in a function": (
        """
def main():
    with pool.connection() as outer, pool.connection() as inner:
        run(inner, "CREATE TABLE never_committed (i int)")
        raise SystemExit(4)
main()
""",
        (4, ""),
    ),
    "a daemon thread in a block, in a query": (
        """
inside = threading.Event()
def work():
    with pool.connection() as conn:
        inside.set()
        run(conn, "SELECT pg_sleep(600)")
threading.Thread(target=work, daemon=True).start()
inside.wait()
""",
        (0, ""),
    ),
    "daemon threads wait": (
        """
held = [pool.getconn(), pool.getconn()]
for _ in range(5):
    threading.Thread(target=pool.getconn, args=(600,), daemon=True).start()
waiting(5)
""",
        (0, ""),
    ),
    "threads wait and are served by others after the main thread's end": (
        """
taken = threading.Event()
def take():
    held = [pool.getconn(), pool.getconn()]
    taken.set()
    wait_for(lambda: not threading.main_thread().is_alive())
    while held:
        pool.putconn(held.pop())
def wait():
    with pool.connection(600) as conn:
        run(conn, "SELECT 1")
    print("served\\n", end="")
threading.Thread(target=take).start()
taken.wait()
for _ in range(2):
    threading.Thread(target=wait).start()
waiting(2)
""",
        (0, "served\n" * 2),
    ),
    "threads connect after the main thread's end": (
        """
def work():
    wait_for(lambda: not threading.main_thread().is_alive())
    for _ in range(3):
        conn = pool.getconn()
        run(conn, "SELECT 1")
        pool.putconn(conn, close=True)
    print("served\\n", end="")
threading.Thread(target=work).start()
""",
        (0, "served\n"),
    ),
    "a thread waits for what nobody gives back, until its timeout": (
        """
held = [pool.getconn(), pool.getconn()]
def wait():
    try:
        pool.getconn(timeout=1)
    except PoolTimeout:
        print("told")
threading.Thread(target=wait).start()
waiting(1)
""",
        (0, "told\n"),
    ),
    "an executor's threads wait": (
        """
held = [pool.getconn()]
def work(number):
    with pool.connection() as conn:
        run(conn, "SELECT pg_sleep(0.01)")
executor = ThreadPoolExecutor(8)
futures = [executor.submit(work, number) for number in range(20)]
waiting(1)
""",
        (0, ""),
    ),
    "a connection is kept by a module, with its transaction open": (
        """
sys.modules["kept"] = kept = type(sys)("kept")
kept.conn = pool.getconn()
run(kept.conn, "CREATE TABLE never_committed (i int)")
del kept
""",
        (0, ""),
    ),
    "a destructor uses the pool after its threads": (
        """
import os
class Late:
    def __init__(self, held):
        self.pool, self.held = pool, held
    def __del__(self, write=os.write):
        try:
            self.pool.getconn()
        except Exception as error:
            write(1, f"{type(error).__name__} {error}\\n".encode())
with pool.connection():
    pass
late = Late([pool.getconn()])
del pool
""",
        (0, TOO_LATE),
    ),
    "three hundred pools": (
        """
pools = [ConnectionPool(sys.argv[1], max_size=1) for _ in range(300)]
for one in pools[:10]:
    with one.connection() as conn:
        run(conn, "SELECT 1")
wait_for(lambda: threading.active_count() == 2)
""",
        (0, ""),
    ),
    "pools that have just begun to fill": (
        """
pools = [ConnectionPool(sys.argv[1], min_size=2) for _ in range(10)]
""",
        (0, ""),
    ),
    "a waiter in a pool that cannot connect": (
        """
import socket
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
nowhere = ConnectionPool(f"host=127.0.0.1 port={port} dbname=x user=x", connect_timeout=600)
threading.Thread(target=nowhere.getconn, args=(600,), daemon=True).start()
silent = listener.accept()[0]  # dropped, it would end the connect
""",
        (0, ""),
    ),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_process_ends_without_a_word(what: str, postgres: Postgres) -> None:
    code, (status, output) = PROGRAMS[what]
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::ResourceWarning"),
            *("-c", HEAD + code, postgres.dsn(application_name=NAME)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, output, "")
    # One that is at work notices only when it has something to say.
    left = 1 if "pg_sleep(600)" in code else 0
    wait_until(lambda: count_sessions(postgres, NAME) <= left, PATIENCE, "no session is left")
    run_sql(
        postgres,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
        NAME,
    )
    assert run_sql(postgres, "SELECT to_regclass('never_committed') IS NULL") == [(True,)]


def test_a_thread_that_is_being_started_is_waited_for_and_then_none_is(
    monkeypatch: pytest.MonkeyPatch, stub_pool: MakePool
) -> None:
    inside.patch(monkeypatch, "exiting", False)
    inside.patch(monkeypatch, "EXIT_PATIENCE", PATIENCE)
    entered, go_on = threading.Event(), threading.Event()
    told: list[str] = []

    class Slow(threading.Thread):
        def start(self) -> None:
            entered.set()
            go_on.wait(PATIENCE)
            super().start()
            told.append("it runs")

    def end() -> None:
        inside.threads.end()
        told.append("the process ends")

    starting = threading.Thread(target=inside.threads.start, args=(Slow(target=lambda: None),))
    ending = threading.Thread(target=end)
    starting.start()
    assert entered.wait(PATIENCE)
    ending.start()
    wait_until(lambda: inside.peek(inside.threads, "ended"), PATIENCE)
    ending.join(0.05)  # it does not end
    go_on.set()
    for thread in (starting, ending):
        thread.join(PATIENCE)
    assert told == ["it runs", "the process ends"]
    with pytest.raises(RuntimeError):
        inside.threads.start(threading.Thread(target=lambda: None))
    with stub_pool(max_size=1).connection():  # the caller connects
        pass


def test_a_start_that_is_interrupted_at_any_point_keeps_no_process_from_its_end() -> None:
    def scenario(run: Callable[[Callable[[], object]], None]) -> Callable[[str], None]:
        run(lambda: inside.threads.start(inside.threads.Thread(lambda: None, (), "dbpool-x")))

        def check(where: str) -> None:
            assert not any(
                ref() for ref in inside.peek(inside.threads, "being_started").values()
            ), "it is waited for"

        return check

    assert explore(inside.threads.__file__, scenario) > 3
