"""Nobody waits past the timeout, whatever does not answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dbpool import PoolTimeout
from testproject.postgres import PostgresServer
from tests.support.callers import PATIENCE, MakePool


@pytest.mark.outage
def test_a_check_that_hangs_ends_with_the_timeout(
    new_pool: MakePool, breakable_postgres: PostgresServer
) -> None:
    def check(conn: Any) -> None:
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")

    pool = new_pool(breakable_postgres.dsn(), max_size=1, check=check)
    pool.putconn(pool.getconn())
    breakable_postgres.freeze()
    started = time.monotonic()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.5)
    assert time.monotonic() - started < PATIENCE / 2
    assert pool.get_stats()["connections_closed"] == {"check_failed": 1}
