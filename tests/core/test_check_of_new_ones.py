"""Whose refusal by `check` puts the next connect off: a connection's that is new, and only once."""

from __future__ import annotations

import time

import pytest

from dbpool.drivers.base import REASONS
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, in_thread, wait_for_waiters
from tests.support.gate import Gate
from tests.support.stub_driver import StubConnection, StubError
from tests.support.waiting import wait_until

LONG = 1000.0


def test_idle_ones_that_are_refused_put_no_connect_off(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover: they have never been lent, but what a connect would bring is good."""
    inside.patch(monkeypatch, "NEW", 0.05)
    inside.patch(monkeypatch, "MIN_PAUSE", LONG)
    inside.patch(monkeypatch, "MAX_PAUSE", LONG)

    def check(conn: StubConnection) -> None:
        if conn.number <= 5:
            raise StubError("it is on the old primary")

    pool = stub_pool(min_size=5, max_size=5, check=check)
    pool.wait(PATIENCE)
    born = max(entry.born for entry in inside.entries(pool))
    wait_until(lambda: inside.now() > born + 0.05, PATIENCE)
    pool.putconn(pool.getconn(PATIENCE))
    assert pool.get_stats()["connections_closed"] == {"check_failed": 5}


def test_several_that_are_refused_together_put_the_next_one_off_once(
    stub_pool: MakePool, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "NEW", LONG)

    def check(conn: StubConnection) -> None:
        if conn.number <= 3:
            wait_until(lambda: pool.get_stats()["connections_num"] >= 3, PATIENCE)
            raise StubError("not these")

    pool = stub_pool(max_size=3, max_connecting=3, check=check)
    callers = [in_thread(pool.getconn, PATIENCE) for _ in range(3)]
    wait_for_waiters(pool, 3)
    gate.wait(3)
    gate.open()
    wait_until(lambda: pool.get_stats()["connections_lost"] == 3, PATIENCE)
    assert inside.outage(pool).pause_for < 0.2, "as after one failure"
    for caller in callers:
        pool.putconn(caller.result(PATIENCE))


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_no_other_failure_is_taken_for_such_a_refusal(reason: str) -> None:
    """Who waited for the last open connection waits for a connect when that has gone."""
    outage = inside.outage_alone()
    outage.put_off(1000.0, inside.Failure(StubError(reason), reason))
    assert not outage.checking
    outage.emptied()
    assert outage.retry_at == 0.0


def test_when_the_last_connection_goes_no_connect_is_put_off_any_more(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2, background=False)
    conn = pool.getconn()
    outage = inside.outage(pool)
    outage.put_off(time.monotonic() + 1000.0, inside.Failure(StubError("no"), "connect_refused"))
    pool.putconn(conn, close=True)
    assert outage.retry_at == 0.0
