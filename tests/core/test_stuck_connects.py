"""Connects that do not end: the pool says so, gets on with others, and needs no restart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dbpool.health import HealthCheck
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    told,
    wait_for_waiters,
)
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

SOON = 0.05  # seconds after which a connect is given up


class Trouble:
    """Has connects hang until it is cured; those that hang then do so until they are let go."""

    def __init__(self) -> None:
        self.cured = False
        self.hanging = 0
        self._lock = threading.Lock()
        self._go = threading.Event()

    def __call__(self, *_: object) -> Any:
        if not self.cured:
            with self._lock:
                self.hanging += 1
            self._go.wait(10 * PATIENCE)
        return ""

    def let_go(self) -> None:
        self.cured = True
        self._go.set()


@pytest.fixture
def trouble(stub: StubDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trouble]:
    """Have the stub driver's connects hang; at the end nothing hangs any more."""
    inside.patch(monkeypatch, "OVERRUN", 0.0)
    found = Trouble()
    stub.hooks["connect"] = found
    yield found
    found.let_go()


def test_those_that_hang_do_not_end_the_pool(stub_pool: MakePool, trouble: Trouble) -> None:
    pool = stub_pool(
        max_size=4, max_connecting=2, connect_timeout=SOON, timeout=PATIENCE, down_wait=PATIENCE
    )
    caller = in_thread(pool.getconn)
    wait_until(lambda: trouble.hanging >= 5, PATIENCE, "more are tried than may be under way")
    trouble.cured = True
    pool.putconn(caller.result(PATIENCE))
    hung = trouble.hanging
    with lent(pool, 4):
        inside.audit(pool)
    assert trouble.hanging == hung, "these are still there"
    trouble.let_go()
    expect_full_capacity(pool)


def test_where_nothing_is_open_it_is_down_and_says_why(
    stub_pool: MakePool, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    pool = stub_pool(name="shop", connect_timeout=SOON, timeout=1000.0, down_wait=0.0)
    check = HealthCheck(lambda: {"shop": pool}, detail=lambda headers, address: True)
    error = told(pool)
    assert error.cause == "connect_stuck"
    assert "connects do not end" in str(error)
    assert pool.state == "down"
    assert "pool 'shop' is down, it cannot connect: connect_stuck (2 connects do not" in caplog.text
    assert "pool 'shop': 2 connects do not end, in the driver" in caplog.text
    status, _, body = check.respond("GET", "/healthz/db", "verbose", [], "")
    assert (status, b"connect_stuck" in body) == (503, True)
    trouble.cured = True
    wait_until(lambda: pool.state == "ok", PATIENCE)
    assert "pool 'shop' is up again" in caplog.text
    assert check.respond("GET", "/healthz/db", "", [], "")[0] == 200


def test_callers_wait_for_what_is_open_meanwhile(
    stub_pool: MakePool, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    trouble.cured = True
    pool = stub_pool(name="shop", max_size=3, connect_timeout=SOON, timeout=PATIENCE, down_wait=0.0)
    check = HealthCheck(lambda: {"shop": pool}, detail=lambda headers, address: True)
    with lent(pool, 1):
        trouble.cured = False
        callers = [in_thread(pool.getconn) for _ in range(3)]
        wait_until(lambda: "2 connects do not end" in caplog.text, PATIENCE)
        assert pool.state == "ok"
        wait_for_waiters(pool, 3)
        pool.note_success()
        status, _, body = check.respond("GET", "/healthz/db", "verbose", [], "")
        assert (status, b"connect_stuck" in body) == (200, True)
    for caller in callers:
        pool.putconn(caller.result(PATIENCE))
    assert pool.get_stats()["requests_errors"] == 0
    trouble.cured = True
    pool.check()  # at once, whatever the pause
    with lent(pool, 3):
        pass
    assert "connects again" in caplog.text


def test_it_says_so_if_it_is_the_users_own_that_hangs(
    new_pool: MakePool, stub: StubDriver, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    del stub.hooks["connect"]
    pool = new_pool(trouble, driver=stub, connect_timeout=SOON, down_wait=0.0, timeout=1000.0)
    assert told(pool).cause == "connect_stuck"
    assert "connects do not end, in conninfo, kwargs or configure, which are yours" in caplog.text
    trouble.cured = True
    wait_until(lambda: pool.state == "ok", PATIENCE)


def test_what_the_users_own_takes_before_a_connect_has_the_same_allowance(
    new_pool: MakePool, stub: StubDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conninfo that asks a name service or a vault for the password."""
    inside.patch(monkeypatch, "OVERRUN", 1000.0)
    asked, go = threading.Event(), threading.Event()

    def conninfo() -> str:
        asked.set()
        assert go.wait(PATIENCE)
        return ""

    pool = new_pool(conninfo, driver=stub, max_size=2, connect_timeout=SOON, timeout=PATIENCE)
    caller = in_thread(pool.getconn)
    assert asked.wait(PATIENCE)
    (attempt,) = inside.attempts(pool)
    assert attempt.overdue_at > inside.now()
    go.set()
    pool.putconn(caller.result(PATIENCE))


def test_closing_waits_for_none_that_hangs(stub_pool: MakePool, trouble: Trouble) -> None:
    pool = stub_pool(connect_timeout=SOON, timeout=0.01, max_connecting=1)
    with pytest.raises(Exception, match="connection within"):
        pool.getconn()
    attempts = inside.attempts(pool)
    wait_until(lambda: all(a.overdue_at < inside.now() for a in attempts), PATIENCE)
    in_thread(pool.close, 100 * PATIENCE).result(PATIENCE)


def begun(*moments: float) -> list[inside.Attempt]:
    return [inside.Attempt(moment, SOON) for moment in moments]


def test_further_ones_are_tried_ever_less_often(stub_pool: MakePool) -> None:
    """So few threads hang however long it lasts, and its end is noticed half as long after it."""
    pool, takes = stub_pool(), 7.0  # seconds until a connect is given up
    hanging, now, after = begun(0.0, 0.0, takes, takes), takes, {}
    while now < 24 * 3600.0:
        now = max(now + takes, inside.next_try(pool, hanging))
        assert now <= 2 * takes or now <= 1.5 * hanging[-1].since + takes
        hanging += begun(now)
        after[now] = len(hanging)
    assert max(count for moment, count in after.items() if moment < 600.0) <= 14
    assert len(hanging) <= 27


def test_two_that_hang_are_replaced_at_once_and_no_third(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=10, max_connecting=2)
    one_more = [inside.may_join(pool, hanging, timely=1) for hanging in (1, 2, 3)]
    assert one_more == [True, True, False]


def test_those_of_an_old_trouble_do_not_put_off_what_a_new_one_needs(stub_pool: MakePool) -> None:
    pool = stub_pool()
    inside.outage(pool).fresh_since = 5000.0
    assert inside.next_try(pool, begun(0.0, 10.0, 1000.0)) < 5000.0
    assert inside.next_try(pool, begun(5000.0, 5008.0)) == 5012.0, "begun just then"
    assert inside.next_try(pool, begun(0.0, 10.0, 1000.0, 9000.0, 9008.0)) == 9012.0
    many = begun(*(10.0 * n for n in range(16)))
    assert inside.next_try(pool, many) == 225.0, "but there is an end to that"
