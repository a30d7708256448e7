"""Nobody waits past the timeout, whatever does not answer; and the error says why."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dbpool import Misconfigured, PoolTimeout
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, in_thread, lent


@pytest.mark.outage
def test_a_check_that_hangs_ends_with_the_timeout(
    new_pool: MakePool, breakable_postgres: PostgresServer
) -> None:
    def check(conn: Any) -> None:
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")

    pool = new_pool(breakable_postgres.dsn(), max_size=1, check=check, ping_timeout=10 * PATIENCE)
    pool.putconn(pool.getconn())
    breakable_postgres.freeze()
    caller = in_thread(pool.getconn, timeout=0.5)
    with pytest.raises(PoolTimeout):
        caller.result(PATIENCE)
    assert pool.get_stats()["connections_closed"] == {"check_failed": 1}


@pytest.mark.outage
def test_many_idle_connections_that_do_not_answer_cost_one_timeout_in_all(
    new_pool: MakePool, breakable_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[bool] = []  # of each that was asked, whether its time was used up

    class Noted(inside.TimeLimit):
        __slots__ = ()

        def __exit__(self, *error: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                waited.append(self.fired)
            super().__exit__(*error)

    inside.patch(monkeypatch, "TimeLimit", Noted)
    pool = new_pool(breakable_postgres.dsn(), max_size=40, validate_after=0, ping_after=0)
    with lent(pool, 40):
        pass
    breakable_postgres.freeze()
    with pytest.raises(PoolTimeout, match=r"0 of 40 in use.* did not answer"):
        pool.getconn(timeout=0.3)
    assert 1 <= waited.count(True) <= 2, "0.05 s for each of the 40"


@pytest.mark.parametrize(
    "option",
    [
        {"configure": lambda conn: conn.cursor().execute("SELECT 1")},  # its transaction is open
        {"configure": lambda conn: conn.nonsense()},
        {"kwargs": lambda: None},
    ],
)
def test_a_mistake_in_a_callback_is_not_blamed_on_the_database(
    pg_pool: MakePool, option: dict[str, Any]
) -> None:
    pool = pg_pool(**option)
    with pytest.raises(Misconfigured) as caught:  # at once, and not after its timeout
        pool.getconn(timeout=PATIENCE)
    assert "is the database up" not in str(caught.value)
    assert pool.state == "ok"
