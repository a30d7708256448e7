"""After `reconnect_timeout` of failed connects a pool gives up, until somebody asks again."""

from __future__ import annotations

import threading
import time

import pytest

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, settled
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    inside.patch(monkeypatch, "MIN_PAUSE", 0.02)
    inside.patch(monkeypatch, "MAX_PAUSE", 0.02)


def refuse(_: object) -> None:
    raise StubError("connect_refused")


@pytest.fixture
def given_up(stub_pool: MakePool, stub: StubDriver) -> ConnectionPool:
    """Return a pool that has given up, on a server that is back."""
    stub.hooks["connect"] = refuse
    told = threading.Event()
    pool = stub_pool(min_size=2, reconnect_timeout=0.05, reconnect_failed=lambda pool: told.set())
    assert told.wait(PATIENCE)
    settled(pool)
    wait_until(lambda: inside.due(pool) > time.monotonic() + 5, PATIENCE, "the keeper rests")
    del stub.hooks["connect"]
    return pool


def test_who_waits_for_the_minimum_has_it_connect_again(given_up: ConnectionPool) -> None:
    given_up.wait(PATIENCE / 2)
    assert given_up.get_stats()["pool_size"] == 2


def test_check_has_it_connect_at_once_whatever_the_pause(given_up: ConnectionPool) -> None:
    inside.outage(given_up).retry_at = time.monotonic() + 100 * PATIENCE
    given_up.check()
    wait_until(lambda: given_up.get_stats()["pool_available"] == 2, PATIENCE / 2)


def test_it_is_told_after_reconnect_timeout_and_not_before(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """The beginning of the outage is put back, and another attempt awaited."""
    told = threading.Event()
    stub.hooks["connect"] = refuse
    pool = stub_pool(min_size=1, reconnect_timeout=1000.0, reconnect_failed=lambda pool: told.set())

    def began(seconds: float) -> None:
        """Have it begun so long ago, and return when two attempts have failed since."""
        tries = pool.get_stats()["connections_errors"]
        with inside.lock(pool):
            inside.outage(pool).failing_since = time.monotonic() - seconds
        wait_until(lambda: pool.get_stats()["connections_errors"] >= tries + 2, PATIENCE)

    wait_until(lambda: inside.outage(pool).failing_since is not None, PATIENCE)
    began(900.0)
    assert not told.is_set()
    inside.outage(pool).failing_since = time.monotonic() - 1001.0
    assert told.wait(PATIENCE)
