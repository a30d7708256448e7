"""Under gevent: greenlets share a pool as threads do, and may be ended wherever they wait.

Each test is a process of its own, since a monkey-patch is for good.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.drivers.conftest import needs_psycopg
from tests.support.gunicorn import get, gunicorn
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import run_sql
from tests.support.waiting import wait_until

AT_ONCE = 20
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
)


@pytest.fixture(params=["psycopg2", pytest.param("psycopg", marks=needs_psycopg)])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(function: str, driver: str, order: str, server: Postgres) -> None:
    program = [sys.executable, "-m", "tests.drivers.greenlets"]
    done = subprocess.run(
        [*program, function, driver, order, server.dsn()],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("order", [pytest.param("before", marks=pytest.mark.exhaustive), "after"])
@pytest.mark.parametrize(
    "function",
    [
        "waiters_are_served_in_their_order",
        "many_share_few",
        "queries_run_side_by_side",
        "a_timeout_while_waiting_is_the_pools",
        "a_black_hole_keeps_nobody",
        "a_look_sees_a_hang_up_and_lets_nobody_run",
        "ended_in_a_block",
        "ended_while_waiting",
        "in_a_query_the_connection_is_not_kept",
        "dropped_by_greenlets_that_ended",
        "a_process_may_end_while_they_wait",
    ],
)
def test_greenlets(function: str, driver: str, order: str, postgres: Postgres) -> None:
    run(function, driver, order, postgres)


@pytest.mark.parametrize(
    "function",
    [
        "ended_between_getconn_and_putconn",
        "ended_in_a_first_use",
        "ended_in_a_connect_of_its_own",
        "ended_in_callbacks",
        "ended_in_a_commit",
    ],
)
def test_greenlets_that_are_ended_at_each_switch(
    function: str, driver: str, postgres: Postgres
) -> None:
    run(function, driver, "before", postgres)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_a_gunicorn_worker_serves_many_at_once(
    preload: bool, driver: str, postgres: Postgres, tmp_path: Path
) -> None:
    """All of them are in the database at the same time; a worker that blocks has one there."""
    variables = {
        "POOL_CONNINFO": postgres.dsn(application_name="green"),
        "POOL_DRIVER": driver,
        "POOL_SIZE": str(AT_ONCE),
        "POOL_GREEN": "1" if driver == "psycopg2" else "",
        "POOL_PATCHED": "1" if driver == "psycopg" else "",
        "POOL_USED": "1" if preload else "",
    }
    options = ["--worker-class", "gevent", *["--preload"] * preload]
    app = "tests.support.pool_app"
    with (
        closing(psycopg2.connect(postgres.dsn())) as locking,
        ThreadPoolExecutor(AT_ONCE) as clients,
        gunicorn(app, *options, variables=variables, log=tmp_path / "log") as address,
    ):
        locking.cursor().execute("SELECT pg_advisory_lock(4711)")
        answers = [clients.submit(get, f"{address}/lock?token={n}") for n in range(AT_ONCE)]
        try:
            wait_until(lambda: waiting_for_the_lock(postgres) == AT_ONCE, 30)
            assert get(f"{address}/up") == "up"
        finally:
            locking.close()
        sessions = set()
        for token, answer in enumerate(answers):
            _, session, answered, master = json.loads(answer.result(60))
            assert answered == token
            assert session not in master
            sessions.add(session)
        assert len(sessions) == AT_ONCE
    wait_until(lambda: count_sessions(postgres, "green") == 0, 30, "no session is left")


def waiting_for_the_lock(server: Postgres) -> int:
    sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    return int(run_sql(server, sql)[0][0])
