"""psycopg2 with a wait callback: a connect keeps its deadline whatever the callback does."""

from __future__ import annotations

import importlib.util
import logging
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions, extras

from dbpool import PoolTimeout
from tests.support.black_hole import BlackHole
from tests.support.callers import PATIENCE, MakePool
from tests.support.servers import Postgres
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def polling(conn: Any) -> None:
    """As somebody writes one who knows of poll() only."""
    while (state := conn.poll()) != extensions.POLL_OK:
        poll = select.poll()
        poll.register(
            conn.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        )
        poll.poll()


@pytest.fixture(params=[extras.wait_select, polling], ids=["psycopg2's own", "another"])
def callback(request: pytest.FixtureRequest) -> Iterator[None]:
    extensions.set_wait_callback(request.param)
    yield
    extensions.set_wait_callback(None)


class Mine(extensions.connection):
    """A class of the user's own."""


@pytest.mark.usefixtures("callback")
@pytest.mark.parametrize(
    "kwargs", [{}, {"connection_factory": Mine}], ids=["", "a class of the user's own"]
)
def test_a_server_that_accepts_and_stays_silent_holds_no_connect_for_ever(
    kwargs: dict[str, Any], new_pool: MakePool, postgres: Postgres
) -> None:
    """As many of them as a pool may have under way, and then the server is there again."""
    with BlackHole() as silent:
        where = [silent.url]
        pool = new_pool(
            lambda: where[0], driver="psycopg2", kwargs=kwargs, connect_timeout=0.2, max_size=4
        )
        for _ in range(4):
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.05)
        wait_until(lambda: pool.get_stats().get("connections_errors", 0) > 0, PATIENCE)
        where[0] = postgres.dsn()
        taken = [pool.getconn(PATIENCE) for _ in range(4)]
        assert {isinstance(conn, Mine) for conn in taken} == {bool(kwargs)}
        while taken:
            pool.putconn(taken.pop())


@pytest.mark.usefixtures("callback")
def test_the_error_says_that_it_took_too_long(new_pool: MakePool) -> None:
    with BlackHole() as silent:
        pool = new_pool(silent.url, driver="psycopg2", connect_timeout=0.2, background=False)
        driver = pool.driver
        asked: dict[str, Any] = {"timeout": 0.2, "name": "pool"}
        found = driver.parameters(
            silent.url, {}, settings={}, last_host=None, primary=False, **asked
        )
        with pytest.raises(psycopg2.OperationalError, match="timeout expired") as caught:
            driver.connect(silent.url, found.kwargs, timeout=found.seconds, name="pool")
        assert driver.reason(caught.value) == "connect_timeout"


@pytest.mark.usefixtures("callback")
def test_a_silent_host_is_left_for_the_next_one(new_pool: MakePool, postgres: Postgres) -> None:
    here = extensions.parse_dsn(postgres.dsn())
    with BlackHole() as one, BlackHole() as other:
        hosts = {
            "host": ",".join(["127.0.0.1", "127.0.0.1", here["host"]]),
            "port": ",".join([str(one.port), str(other.port), here["port"]]),
        }
        pool = new_pool(postgres.dsn(**hosts), driver="psycopg2", connect_timeout=1.0, max_size=1)
        with pool.connection(PATIENCE) as conn, conn.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert pool.get_stats().get("connections_errors", 0) == 0
        assert (len(one.accepted), len(other.accepted)) == (1, 1)


@pytest.mark.usefixtures("callback")
def test_a_connect_in_time_is_not_cut(new_pool: MakePool, postgres: Postgres) -> None:
    pool = new_pool(postgres.dsn(), driver="psycopg2", max_size=4, min_size=4)
    pool.wait(PATIENCE)
    assert pool.get_stats()["connections_num"] == 4


# gevent

needs_gevent = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
)

SIDE_BY_SIDE = """
import gevent.monkey; gevent.monkey.patch_all()
import logging, sys, time
logging.basicConfig(format="%(message)s", stream=sys.stdout)
import gevent.event
from dbpool import ConnectionPool, drivers
if {installed}:
    drivers.wait_with_gevent()
pool = ConnectionPool(sys.argv[1], driver="psycopg2", max_size=2)

def lock():
    # It waits for what the other greenlet does after this one has begun to wait.
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SET statement_timeout = '{patience}'")
        begun.set()
        cursor.execute("SELECT pg_advisory_lock(1), pg_advisory_unlock(1)")
        return "ran"

begun = gevent.event.Event()
with pool.connection() as holder, holder.cursor() as cursor:
    cursor.execute("SELECT pg_advisory_lock(1)")
    waiting = gevent.spawn(lock)
    begun.wait()
    cursor.execute("SELECT pg_advisory_unlock(1)")
print("done", waiting.get() if {installed} else "")
"""


def in_a_gevent_process(server: Postgres, installed: bool) -> str:
    program = SIDE_BY_SIDE.format(installed=installed, patience="30s" if installed else "100ms")
    done = subprocess.run(
        [sys.executable, "-c", program, server.dsn()],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=ROOT,
        check=False,
    )
    return done.stdout + (done.stderr if installed else "")


@needs_gevent
def test_greenlets_run_side_by_side_once_psycopg2_waits_with_gevent(postgres: Postgres) -> None:
    assert in_a_gevent_process(postgres, True) == "done ran\n"


@needs_gevent
def test_psycopg2_that_stops_all_greenlets_is_warned_of_once(postgres: Postgres) -> None:
    said = in_a_gevent_process(postgres, False)
    assert said.count("dbpool.drivers.wait_with_gevent()") == 1


def test_nothing_is_said_where_gevent_has_patched_nothing(
    new_pool: MakePool, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    if importlib.util.find_spec("gevent"):
        importlib.import_module("gevent.monkey")
    with caplog.at_level(logging.WARNING):
        pool = new_pool(postgres.dsn(), driver="psycopg2")
        with pool.connection():
            pass
    assert "gevent" not in caplog.text
