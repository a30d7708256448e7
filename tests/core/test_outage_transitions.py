"""The table in `dbpool/_connect/outage.py`, row by row: what a connect's end makes of a pool."""

from __future__ import annotations

import math

import pytest

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.callers import MakePool
from tests.support.stub_driver import StubDriver, StubError

SILENT, REFUSED, FAILED, AUTH = "connect_timeout", "connect_refused", "connect_failed", "auth"
START = 1000.0


@pytest.fixture
def pool(stub_pool: MakePool) -> ConnectionPool:
    return stub_pool(open=False, max_connecting=4)


def fail(pool: ConnectionPool, reason: str, *, alive: bool, now: float = START) -> str:
    """Have a connect fail that began a moment before; return the state."""
    failure = inside.Failure(StubError(reason), reason, silent=reason == SILENT)
    inside.connect_failed(pool, now, now - 0.01, failure, alive=alive)
    return state(pool)


def state(pool: ConnectionPool) -> str:
    return inside.outage(pool).name


def connect(pool: ConnectionPool, now: float = START) -> str:
    with inside.lock(pool):
        inside.outage(pool).connected(now)
    return state(pool)


@pytest.mark.parametrize("alive", [True, False])
def test_the_second_in_a_row_that_is_met_with_silence(alive: bool, pool: ConnectionPool) -> None:
    assert fail(pool, SILENT, alive=alive) == "ok"
    assert connect(pool) == "ok"
    assert fail(pool, SILENT, alive=alive) == "ok", "the one before was another row"
    assert fail(pool, SILENT, alive=alive) == "down"


def test_an_answer_in_between_begins_the_row_of_silence_anew(pool: ConnectionPool) -> None:
    outcomes = (SILENT, REFUSED, SILENT, FAILED, SILENT)
    assert [fail(pool, one, alive=True) for one in outcomes] == ["ok"] * 5
    assert fail(pool, SILENT, alive=True) == "down"


@pytest.mark.parametrize("reason", [REFUSED, "server_shutdown", "too_many_connections"])
def test_one_that_is_refused(reason: str, pool: ConnectionPool) -> None:
    assert [fail(pool, reason, alive=True) for _ in range(9)] == ["ok"] * 9
    assert fail(pool, reason, alive=False) == "down"


@pytest.mark.parametrize("reason", [FAILED, "dns", "tls"])
def test_one_that_is_answered_otherwise(reason: str, pool: ConnectionPool) -> None:
    assert fail(pool, reason, alive=False) == "ok"
    assert fail(pool, reason, alive=False) == "down"


@pytest.mark.parametrize("reason", [AUTH, "unknown_database", "misconfigured"])
@pytest.mark.parametrize("alive", [True, False])
def test_one_that_is_refused_for_good(reason: str, alive: bool, pool: ConnectionPool) -> None:
    assert [fail(pool, reason, alive=alive) for _ in range(9)] == ["ok"] * 9


def test_an_error_that_is_none_of_the_drivers(pool: ConnectionPool) -> None:
    failure = inside.Failure(KeyError("a bug"), FAILED)
    for _ in range(9):
        inside.connect_failed(pool, START, START, failure, alive=False)
    assert state(pool) == "ok"


def test_one_that_is_answered_while_it_is_down_and_something_works(pool: ConnectionPool) -> None:
    fail(pool, SILENT, alive=True)
    assert fail(pool, SILENT, alive=True) == "down"
    assert fail(pool, REFUSED, alive=True, now=START + 1) == "down", "what is open may be dead"
    inside.put(pool, proved_at=START - 1.0)
    assert fail(pool, REFUSED, alive=True, now=START + 2) == "down", "before the outage it worked"
    inside.put(pool, proved_at=START + 2.5)
    assert fail(pool, SILENT, alive=True, now=START + 3) == "down", "that was no answer"
    inside.put(pool, doubted_at=START + 3.5)
    assert fail(pool, REFUSED, alive=True, now=START + 4) == "down", "since then one was dead"
    inside.put(pool, proved_at=START + 4.5)
    assert fail(pool, REFUSED, alive=False, now=START + 5) == "down"
    assert fail(pool, REFUSED, alive=True, now=START + 6) == "recovering"
    assert inside.outage(pool).retry_at > START + 6, "it has its pauses"


def test_the_end_of_an_outage_is_told_with_its_length_and_its_attempts(
    pool: ConnectionPool,
) -> None:
    for _ in range(3):
        fail(pool, SILENT, alive=True)
    line = inside.outage(pool).connected(START + 5.0)
    assert "is up again after 5.0 s: 4 attempts, 0 callers refused" in line


def test_a_full_server_while_it_is_down_and_something_works(pool: ConnectionPool) -> None:
    fail(pool, SILENT, alive=True)
    assert fail(pool, SILENT, alive=True) == "down"
    fail(pool, "too_many_connections", alive=True, now=START + 1)
    assert state(pool) == "down"
    inside.put(pool, proved_at=START + 1.5)
    fail(pool, "too_many_connections", alive=True, now=START + 2)
    assert state(pool) == "recovering"


def test_recovery_from_the_first_that_succeeds(pool: ConnectionPool) -> None:
    assert fail(pool, REFUSED, alive=False) == "down"
    outage = inside.outage(pool)
    ramp = []
    for _ in range(2):
        assert connect(pool) == "recovering"
        ramp.append(outage.parallel_connects(inside.store(pool)))
    assert fail(pool, REFUSED, alive=True) == "recovering"
    ramp.append(outage.parallel_connects(inside.store(pool)))
    assert [connect(pool) for _ in range(2)] == ["recovering", "ok"]
    assert ramp == [1, 2, 1]
    assert outage.parallel_connects(inside.store(pool)) == 4


def test_connects_that_do_not_end(pool: ConnectionPool) -> None:
    outage = inside.outage(pool)
    outage.stuck = 2
    assert outage.connects_stuck(inside.store(pool), START, alive=True) == ""
    assert state(pool) == "ok"
    assert "2 connects do not end" in outage.connects_stuck(inside.store(pool), START, alive=False)
    assert (state(pool), outage.cause) == ("down", "connect_stuck")
    assert outage.connects_stuck(inside.store(pool), START, alive=False) == "", "told once"
    assert fail(pool, AUTH, alive=False) == "ok", "that is no outage"
    outage.connects_stuck(inside.store(pool), START, alive=False)
    assert fail(pool, REFUSED, alive=False) == "down"
    assert (outage.cause, outage.attempts) == (REFUSED, 1)
    assert fail(pool, AUTH, alive=False) == "down", "the server had not been there"


def test_a_paused_pool_goes_nowhere(pool: ConnectionPool) -> None:
    outage = inside.outage(pool)
    outage.paused = True
    assert outage.connects_stuck(inside.store(pool), START, alive=False) == ""
    assert outage.gives_up_at(0.0) == math.inf


def test_who_is_alive_is_seen_and_not_counted(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=2)
    assert not inside.any_alive(pool)
    first, second = pool.getconn(), pool.getconn()
    assert inside.any_alive(pool)
    first.closed = True
    assert inside.any_alive(pool)
    pool.report(second, StubError("dead"))
    assert inside.any_alive(pool), "nothing says so"
    second.alive = False
    pool.report(second, StubError("dead"))
    assert not inside.any_alive(pool), "it is known to be broken"
    pool.putconn(second)
    del first, second
