"""The seconds that docs/health.md states, on a clock that is made up."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.stub_driver import StubDriver, StubError

LIMITS = inside.Limits(0.75, 1.0, 0.25)
NOW = 1000.0


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    with ConnectionPool("", driver=StubDriver(), max_size=1, background=False) as pool:
        yield pool


def reasons(
    pool: ConnectionPool, now: float, good: inside.ProbeResult | None = None
) -> tuple[str, ...]:
    """Return what speaks against a pool whose server has answered just now."""
    inside.put(pool, proved_at=now, doubted_at=-math.inf)
    verdict = inside.judge(pool, None, good, now, LIMITS)
    assert verdict is not None
    return verdict.reasons


def test_a_full_pool_is_saturated_when_somebody_has_waited_for_a_second(
    pool: ConnectionPool,
) -> None:
    with pool.connection():
        waiter = inside.Waiter(NOW)
        inside.waiters(pool).append(waiter)  # type: ignore[arg-type]
        assert reasons(pool, NOW + 0.99) == ()
        assert reasons(pool, NOW + 1.0) == ("saturated",)
        inside.waiters(pool).clear()


def test_a_timeout_is_remembered_for_ten_seconds(pool: ConnectionPool) -> None:
    inside.put(pool, timed_out_at=NOW)
    assert reasons(pool, NOW + 9.99) == ("saturated",)
    assert reasons(pool, NOW + 10.0) == ()


def test_a_slow_probe_is_told_of_for_ten_seconds_and_slow_is_above_a_quarter(
    pool: ConnectionPool,
) -> None:
    assert reasons(pool, NOW + 9.99, inside.ProbeResult(NOW, seconds=0.26)) == ("slow",)
    assert reasons(pool, NOW + 10.0, inside.ProbeResult(NOW, seconds=0.26)) == ()
    assert reasons(pool, NOW, inside.ProbeResult(NOW, seconds=0.25)) == ()


def test_failing_connects_are_told_of_after_a_second_of_them_and_for_ten_after_the_last(
    pool: ConnectionPool,
) -> None:
    outage = inside.outage(pool)
    outage.failure = failure = inside.Failure(StubError("no"), "connect_refused")
    outage.failing_since = failure.at = NOW
    assert reasons(pool, NOW + 0.99) == ()
    assert reasons(pool, NOW + 1.0) == ("probe_unavailable",)
    failure.at = NOW + 5.0
    assert reasons(pool, NOW + 14.99) == ("probe_unavailable",)
    assert reasons(pool, NOW + 15.0) == ()


def test_how_long_a_probe_took_is_told_in_milliseconds(pool: ConnectionPool) -> None:
    good = inside.ProbeResult(NOW, seconds=0.012345)
    said = inside.described("default", pool, inside.Verdict("pass"), good)
    (answer,) = said["default:responseTime"]
    assert (answer["observedValue"], answer["observedUnit"]) == (12.35, "ms")


def test_the_role_is_asked_for_every_ten_seconds_whatever_else_proves_the_server(
    pool: ConnectionPool,
) -> None:
    prober = inside.prober_of(pool)
    with pool.connection():
        pass  # one is idle
    inside.put(prober, good=inside.ProbeResult(NOW))
    assert not inside.peek(prober, "role_due")(pool, NOW + 9.99, inside.Verdict("pass"))
    assert inside.peek(prober, "role_due")(pool, NOW + 10.0, inside.Verdict("pass"))


def test_the_spare_connection_is_closed_when_unused_for_a_minute(pool: ConnectionPool) -> None:
    prober, driver = inside.prober_of(pool), pool.driver
    conn = driver.connect("", {}, timeout=1.0, name="spare")
    inside.put(prober, spare=inside.Spare(pool, conn))
    inside.peek(prober, "spare").used_at = NOW
    assert inside.upkeep(prober, NOW + 59.9) == pytest.approx(NOW + 60.9)
    assert not conn.closed
    inside.upkeep(prober, NOW + 60.0)
    assert conn.closed
