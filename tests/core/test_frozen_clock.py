"""A clock that a user's tests stop or move does not move the pool's.

freezegun puts its own functions in place of `time.monotonic` in every module it finds, for some
callers and not for others; time-machine moves the clock of the whole process.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import freezegun
import pytest
import time_machine

from dbpool import PoolError, PoolTimeout, deadline
from dbpool.health import HealthCheck
from tests.support.callers import PATIENCE, MakePool, ask, expect_full_capacity, in_thread
from tests.support.servers import Postgres
from tests.support.stub_driver import StubDriver

Freeze = Callable[[str], AbstractContextManager[Any]]

WAYS: dict[str, Freeze] = {
    "freezegun": freezegun.freeze_time,
    "freezegun, ticking": lambda date: freezegun.freeze_time(date, tick=True),
    "time-machine": lambda date: time_machine.travel(date, tick=False),
    "time-machine, ticking": lambda date: time_machine.travel(date, tick=True),
}
DATES = ["1965-02-03", "2020-01-01", "2100-12-31"]


@pytest.fixture(params=WAYS)
def freeze(request: pytest.FixtureRequest) -> Iterator[Freeze]:
    """Stop the clock, or set it and let it go on."""
    return WAYS[request.param]


@pytest.mark.parametrize("date", DATES)
def test_a_connect_under_a_frozen_clock_is_made_once_and_serves(
    date: str, freeze: Freeze, stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=2)
    with freeze(date):
        for _ in range(3):
            in_thread(lambda: pool.putconn(pool.getconn())).result(PATIENCE)
        pool.putconn(pool.getconn())
        with pool.connection():
            pass
    assert len(stub.made) == 1
    assert pool.state == "ok"


def test_what_was_opened_under_a_frozen_clock_serves_when_it_goes_on(
    freeze: Freeze, pg_pool: MakePool
) -> None:
    pool = pg_pool(max_size=1)
    with freeze("2100-12-31"):
        session = ask(pool)
    assert ask(pool) == session
    with freeze("1965-02-03"):
        assert ask(pool) == session
    assert ask(pool) == session
    assert pool.get_stats()["connections_num"] == 1
    expect_full_capacity(pool)


def test_whoever_waits_under_a_frozen_clock_is_told_at_the_timeout(
    freeze: Freeze, stub_pool: MakePool
) -> None:
    pool = stub_pool(max_size=1)
    held = pool.getconn()

    def wait_in_vain() -> float:
        with pytest.raises(PoolTimeout) as caught:
            pool.getconn(timeout=0.05)
        with pytest.raises(PoolTimeout), deadline(0.05):
            pool.getconn()
        return float(caught.value.waited)

    with freeze("2020-01-01"):
        assert 0.05 <= in_thread(wait_in_vain).result(PATIENCE) < PATIENCE
        assert 0.05 <= wait_in_vain() < PATIENCE
        assert 0 <= pool.get_stats()["oldest_use"] < PATIENCE
    pool.putconn(held)
    stats = pool.get_stats()
    assert 0 <= stats["requests_wait_ms"] < 1000 * PATIENCE
    assert 0 <= stats["usage_ms"] < 1000 * PATIENCE
    expect_full_capacity(pool)


def test_a_server_that_is_away_under_a_frozen_clock_is_found_again(
    freeze: Freeze, stub_pool: MakePool, stub: StubDriver
) -> None:
    def refuse(_: object) -> None:
        raise stub.OperationalError("no server here")

    stub.hooks["connect"] = refuse
    pool = stub_pool(max_size=1, down_wait=PATIENCE)
    with freeze("2020-01-01"):
        with pytest.raises(PoolError):
            pool.getconn(timeout=0.05)
        stub.hooks.clear()
        in_thread(lambda: pool.putconn(pool.getconn(PATIENCE))).result(PATIENCE)
    assert pool.state in ("ok", "recovering")
    expect_full_capacity(pool)


def test_health_passes_under_a_frozen_clock_and_after_it(freeze: Freeze, pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1)
    check = HealthCheck(lambda: {"default": pool}, deadline=PATIENCE)

    def answered() -> int:
        return check.respond("GET", "/healthz/db", "", {}, "")[0]

    with freeze("2100-12-31"):
        assert in_thread(answered).result(PATIENCE) == 200
        assert answered() == 200
    assert answered() == 200


FIRST_IMPORTED_FROZEN = """
import sys
import freezegun, psycopg2
with freezegun.freeze_time("2020-01-01"):
    import dbpool
    pool = dbpool.ConnectionPool(sys.argv[1], max_size=1)
    for _ in range(2):
        with pool.connection() as conn:
            conn.cursor().execute("SELECT 1")
print(pool.get_stats()["connections_num"], flush=True)
pool.close()
"""


def test_a_package_that_is_first_imported_under_a_frozen_clock_has_its_own(
    postgres: Postgres,
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST_IMPORTED_FROZEN, postgres.dsn()],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_no_module_of_ours_asks_the_clock_that_freezegun_moves() -> None:
    root = Path(__file__).parents[2]
    moved = re.compile(r"\btime\.(monotonic|perf_counter)|from time import .*(monotonic|perf_)")
    asking = [
        str(path.relative_to(root))
        for package in ("dbpool", "dbpool_django", "dbpool_flask")
        for path in (root / package).rglob("*.py")
        if moved.search(path.read_text())
    ]
    assert asking == [], "take monotonic from dbpool._runtime.clock"
