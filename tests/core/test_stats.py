"""Statistics: every key always there, exact under threads, since the last pop without a reset."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from dbpool import ConnectFailed, ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from dbpool.stats import BOUNDS, GAUGES, bucket
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    settled,
    wait_for_waiters,
)
from tests.support.clock import FakeClock
from tests.support.gate import Gate
from tests.support.stub_driver import StubConnection, StubDriver, StubError
from tests.support.waiting import wait_until

PSYCOPG_POOLS = [
    "pool_min", "pool_max", "pool_size", "pool_available", "requests_waiting", "requests_num",
    "requests_queued", "requests_wait_ms", "requests_errors", "usage_ms", "returns_bad",
    "connections_num", "connections_ms", "connections_errors", "connections_lost",
]  # fmt: skip
OURS = [
    "timeouts", "timeouts_down", "requests_shed", "connections_closed", "connections_dropped",
    "oldest_wait", "oldest_use", "wait_time", "use_time", "create_time", "rescues",
]  # fmt: skip
HISTOGRAMS = ["wait_time", "use_time", "create_time"]


def use(pool: ConnectionPool) -> None:
    with pool.connection(PATIENCE):
        pass


def counts(stats: dict[str, Any], name: str) -> int:
    return sum(stats[name]["counts"])


def test_a_loan_that_nobody_ended_lasted_until_that_was_noticed(stub_pool: MakePool) -> None:
    """It must not be counted as one of less than a millisecond."""

    class Dead:
        @staticmethod
        def is_alive() -> bool:
            return False

    pool = stub_pool(max_size=2)
    first, second = pool.getconn(), pool.getconn()
    pool.own(second, Dead())
    with inside.lock(pool):
        for entry in inside.entries(pool):
            entry.since -= 7.0
    del first
    wait_until(lambda: pool.get_stats()["connections_dropped"] == 1, PATIENCE)
    third, fourth = pool.getconn(PATIENCE), pool.getconn(PATIENCE)  # one slot was a dead owner's
    assert second.closed
    pool.putconn(third)
    pool.putconn(fourth)
    stats = pool.get_stats()
    assert stats["connections_closed"] == {"lost": 1, "abandoned": 1}
    above_5_s = BOUNDS.index(5.0) + 1
    assert stats["use_time"]["counts"][above_5_s] == 2
    assert counts(stats, "use_time") == 4
    assert stats["usage_ms"] >= 14_000


@pytest.mark.parametrize(
    ("fate", "reason"),
    [("resize", "excess"), ("close", "closed"), ("drain", "drained"), ("late", "late")],
)
def test_a_connection_that_is_not_wanted_on_arrival_is_counted_with_its_reason(
    fate: str, reason: str, stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1, max_connecting=2)
    held = pool.getconn(PATIENCE)
    pool.resize(0, 2)
    gate = Gate(stub)
    caller = in_thread(pool.getconn, PATIENCE)
    gate.wait()
    if fate == "resize":
        pool.resize(0, 1)
    elif fate == "close":
        pool.close(timeout=0)
    elif fate == "drain":
        pool.drain()
    else:
        for attempt in inside.attempts(pool):
            attempt.overdue_at = 0.0
    gate.open()
    wait_until(lambda: pool.get_stats()["connections_closed"].get(reason), PATIENCE)
    settled(pool)
    pool.putconn(held)
    if fate == "close":
        with pytest.raises(PoolClosed):
            caller.result(PATIENCE)
    else:
        pool.putconn(caller.result(PATIENCE))
    stats = pool.get_stats()
    assert stats["connections_closed"][reason] >= 1
    assert stats["connections_errors"] == 0
    assert counts(stats, "create_time") == stats["connections_num"], "it was connected, too"


def test_every_key_is_always_there(stub_pool: MakePool) -> None:
    pool = stub_pool(min_size=0, max_size=4, open=False)
    assert sorted(pool.get_stats()) == sorted([*PSYCOPG_POOLS, *OURS])
    before = set(pool.get_stats())
    pool.open()
    use(pool)
    pool.close()
    assert set(pool.get_stats()) == before == set(pool.pop_stats())


def test_the_gauges_tell_what_is(stub_pool: MakePool) -> None:
    pool = stub_pool(min_size=1, max_size=4)
    pool.wait(PATIENCE)
    with lent(pool, 3):
        stats = pool.get_stats()
        assert (stats["pool_min"], stats["pool_max"]) == (1, 4)
        assert (stats["pool_size"], stats["pool_available"]) == (3, 0)
        with lent(pool, 1):
            waiting = [in_thread(use, pool) for _ in range(2)]
            wait_for_waiters(pool, 2)
            assert pool.get_stats()["requests_waiting"] == 2
    for future in waiting:
        future.result(PATIENCE)
    assert pool.get_stats()["pool_available"] == 4
    pool.resize(0, 2)
    assert (pool.get_stats()["pool_min"], pool.get_stats()["pool_max"]) == (0, 2)


def test_connects_under_way_count_as_size(stub_pool: MakePool, stub: StubDriver) -> None:
    go = threading.Event()
    stub.hooks["connect"] = lambda _: go.wait(PATIENCE)
    pool = stub_pool(min_size=2, max_size=4)
    wait_until(lambda: pool.get_stats()["pool_size"] == 2, PATIENCE)
    assert pool.get_stats()["pool_available"] == 0
    go.set()
    pool.wait(PATIENCE)
    assert pool.get_stats()["pool_size"] == 2


def test_the_oldest_wait_and_use_are_told(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    assert pool.get_stats()["oldest_wait"] == pool.get_stats()["oldest_use"] == 0.0
    with lent(pool, 1):
        waiting = in_thread(use, pool)
        wait_for_waiters(pool, 1)
        time.sleep(0.03)
        stats = pool.get_stats()
        assert 0.03 <= stats["oldest_wait"] <= stats["oldest_use"]
    waiting.result(PATIENCE)
    stats = pool.get_stats()
    assert stats["oldest_wait"] == stats["oldest_use"] == 0.0


def test_sums_are_exact_under_32_threads(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=5)
    failed: list[int] = []

    def work(number: int) -> None:
        for turn in range(150):
            try:
                conn = pool.getconn(0.0 if (number + turn) % 10 == 0 else PATIENCE)
            except PoolTimeout:
                failed.append(number)
                continue
            time.sleep(0)
            pool.putconn(conn, close=(number + turn) % 50 == 1)

    watching = threading.Event()

    def watch() -> None:
        last = {"requests_num": 0, "usage_ms": 0}
        while not watching.is_set():
            stats = pool.get_stats()
            assert stats["requests_num"] >= last["requests_num"], "a counter fell"
            assert stats["usage_ms"] >= last["usage_ms"], "a counter fell"
            assert stats["pool_size"] <= 5
            last = stats

    watcher = in_thread(watch)
    for worker in [in_thread(work, number) for number in range(32)]:
        worker.result(2 * PATIENCE)
    watching.set()
    watcher.result(PATIENCE)
    settled(pool)
    stats = pool.get_stats()
    total = 32 * 150
    served = total - len(failed)
    assert stats["requests_num"] == total
    assert stats["requests_errors"] == stats["timeouts"] == len(failed)
    assert counts(stats, "wait_time") == served
    assert counts(stats, "use_time") == served
    assert stats["connections_num"] == counts(stats, "create_time")
    closed = sum(stats["connections_closed"].values())
    assert closed == stats["connections_closed"]["returned_closed"]
    assert stats["connections_num"] == stats["pool_size"] + closed
    assert stats["returns_bad"] == stats["connections_errors"] == stats["rescues"] == 0
    expect_full_capacity(pool)


def test_requests_are_counted_by_how_they_ended(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=1, max_waiting=1)
    use(pool)
    with lent(pool, 1):
        waiting = in_thread(use, pool)
        wait_for_waiters(pool, 1)
        with pytest.raises(TooManyRequests):
            pool.getconn()
    waiting.result(PATIENCE)
    with lent(pool, 1), pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    pool.close()
    with pytest.raises(PoolClosed):
        pool.getconn()
    stats = pool.get_stats()
    assert stats["requests_num"] == 7
    assert stats["requests_errors"] == 3
    assert stats["timeouts"] == 1
    assert stats["requests_queued"] == 3  # the first, for its connect; the waiter; the timeout


def test_each_served_request_is_in_the_wait_histogram_once(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """Also one that was given something dead first, and queued again."""
    errors = [StubError("not this one"), StubError("nor this one")]

    def check(conn: StubConnection) -> None:
        if errors:
            raise errors.pop()

    pool = stub_pool(max_size=1, check=check)
    use(pool)
    stats = pool.get_stats()
    assert stats["connections_num"] == 3
    assert stats["requests_num"] == counts(stats, "wait_time") == stats["requests_queued"] == 1
    errors.append(StubError("nor the one that was idle"))
    use(pool)  # has to wait only because of that
    stats = pool.get_stats()
    assert stats["connections_num"] == 4
    assert stats["requests_num"] == counts(stats, "wait_time") == stats["requests_queued"] == 2


def test_a_wait_is_counted_in_time_and_bucket(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    use(pool)
    pool.pop_stats()
    with lent(pool, 1):
        waiting = in_thread(use, pool)
        wait_for_waiters(pool, 1)
        time.sleep(0.03)
    waiting.result(PATIENCE)
    stats = pool.pop_stats()
    assert stats["requests_wait_ms"] >= 30
    assert stats["wait_time"]["sum"] >= 0.03
    assert sum(stats["wait_time"]["counts"][3:]) == 1  # more than 10 ms
    assert counts(stats, "wait_time") == 2


def test_waits_stay_counted_when_their_connection_has_ended(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    use(pool)
    with lent(pool, 1):
        waiting = in_thread(use, pool)
        wait_for_waiters(pool, 1)
        time.sleep(0.03)
    waiting.result(PATIENCE)
    before = pool.get_stats()
    assert (before["requests_queued"], counts(before, "wait_time")) == (2, 3)
    pool.close()
    after = pool.get_stats()
    assert after["connections_closed"] == {"closed": 1}
    for key in ("requests_queued", "requests_wait_ms", "wait_time"):
        assert after[key] == before[key]


def test_a_caller_that_waited_in_vain_is_counted_as_queued_once(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    """Also one that was given something of no use first, and waited again."""

    def check(conn: StubConnection) -> None:
        if checked:
            raise StubError("of no use")
        checked.append(conn.number)

    checked: list[int] = []
    pool = stub_pool(max_size=1, check=check)
    use(pool)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.05)
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_errors"]) == (2, 1)
    assert stats["requests_queued"] == 2
    assert counts(stats, "wait_time") == 1


def test_a_caller_whose_time_goes_by_while_the_server_is_asked_is_counted_as_queued(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    def answers_late(_: StubConnection) -> None:
        wait_until(lambda: time.monotonic() > asked + 0.5, PATIENCE)
        raise StubError("too late")

    pool = stub_pool(max_size=1, validate="ping")
    stub.hooks["ping"] = answers_late
    asked = time.monotonic()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.5)
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_errors"], stats["requests_queued"]) == (1, 1, 1)


def test_connects_are_counted_by_how_they_ended(stub_pool: MakePool, stub: StubDriver) -> None:
    def first_fails(_: object) -> None:
        if len(tries) < 2:
            tries.append(1)
            raise StubError("connect_refused")
        time.sleep(0.02)

    tries: list[int] = []
    stub.hooks["connect"] = first_fails
    pool = stub_pool(max_size=1, max_connecting=1, down_wait=PATIENCE)
    use(pool)
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["connections_errors"]) == (3, 2)
    assert stats["connections_ms"] >= 20
    assert counts(stats, "create_time") == 1


def test_closed_connections_are_counted_by_reason(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=9, validate="ping")
    with lent(pool, 6) as taken:
        pool.putconn(taken.pop(), close=True)
        broken = taken.pop()
        broken.status = 1  # a query in flight
        pool.putconn(broken)
        taken.pop()
        del broken
        wait_until(lambda: pool.get_stats()["connections_dropped"], PATIENCE)
        taken[0].alive = False
        pool.putconn(taken.pop(0))
        assert use(pool) is None  # finds it dead, unless the keeper has
        pool.drain()
    pool.close()
    settled(pool)
    closed = pool.get_stats()["connections_closed"]
    assert closed.pop("closed", 0) + closed.pop("drained") >= 2
    assert closed == {"returned_closed": 1, "broken": 2, "lost": 1}
    assert pool.get_stats()["returns_bad"] == 1
    assert pool.get_stats()["connections_lost"] == 1


def test_uses_are_counted_in_time_and_bucket(
    stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    clock.install(monkeypatch)
    pool = stub_pool(max_size=1)
    for seconds in (0.0, 0.02, 0.12):
        with lent(pool, 1):
            clock.now += seconds
    stats = pool.get_stats()
    assert stats["usage_ms"] == 140
    assert counts(stats, "use_time") == 3
    assert sum(stats["use_time"]["counts"][3:]) == 2
    assert sum(stats["use_time"]["counts"][5:]) >= 1


def test_what_is_lent_is_in_the_use_histogram_when_it_is_back(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=3)
    with lent(pool, 3):
        assert counts(pool.get_stats(), "use_time") == 0
        assert pool.get_stats()["requests_num"] == 3
    assert counts(pool.get_stats(), "use_time") == 3


def test_pop_counts_since_the_last_pop_and_resets_nothing(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2)
    for _ in range(3):
        use(pool)
    first = pool.pop_stats()
    assert first["requests_num"] == 3
    assert pool.pop_stats()["requests_num"] == 0
    with lent(pool, 2):
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        second = pool.pop_stats()
    assert (second["requests_num"], second["timeouts"]) == (3, 1)
    assert (second["pool_size"], second["pool_max"]) == (2, 2), "gauges stay"
    assert pool.get_stats()["requests_num"] == 6, "live counters go on"
    pool.drain()
    third = pool.pop_stats()
    assert third["connections_closed"] == {"drained": 2}
    assert pool.pop_stats()["connections_closed"] == {"drained": 0}


def test_pops_add_up_to_the_whole_under_threads(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=4)
    workers = [in_thread(lambda: [use(pool) for _ in range(200)]) for _ in range(8)]
    popped: list[dict[str, Any]] = []
    while not all(worker.done() for worker in workers):
        popped.append(pool.pop_stats())
    for worker in workers:
        worker.result(PATIENCE)
    settled(pool)
    popped.append(pool.pop_stats())
    whole = pool.get_stats()
    for key in whole:
        if key in GAUGES or key == "connections_closed":
            continue
        if key in HISTOGRAMS:
            parts = zip(*(stats[key]["counts"] for stats in popped), strict=True)
            assert [sum(part) for part in parts] == whole[key]["counts"]
        else:
            assert sum(stats[key] for stats in popped) == whole[key], key
    assert whole["requests_num"] == 1600


def test_buckets_are_those_of_opentelemetry_and_a_bound_belongs_below() -> None:
    assert BOUNDS == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
    for index, bound in enumerate(BOUNDS):
        assert bucket(bound) == index
        assert bucket(bound * 1.01) == index + 1
    assert bucket(0.0) == 0


def test_histograms_have_one_count_more_than_bounds_and_are_plain_data(
    stub_pool: MakePool,
) -> None:
    pool = stub_pool()
    use(pool)
    stats = pool.get_stats()
    for name in HISTOGRAMS:
        assert len(stats[name]["counts"]) == len(stats[name]["bounds"]) + 1
    assert json.loads(json.dumps(stats))["requests_num"] == 1
    for name in HISTOGRAMS:
        stats[name]["counts"][0] += 99
    stats["connections_closed"]["mine"] = 1
    again = pool.get_stats()
    assert all(counts(again, name) == 1 for name in HISTOGRAMS), "no copy was handed out"
    assert "mine" not in again["connections_closed"]


def test_a_refused_request_is_counted(stub_pool: MakePool, stub: StubDriver) -> None:
    def refuse(_: object) -> None:
        raise StubError("auth")

    stub.hooks["connect"] = refuse
    pool = stub_pool(max_size=1)
    for _ in range(2):
        with pytest.raises(ConnectFailed):
            pool.getconn()
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_errors"], stats["timeouts"]) == (2, 2, 0)


def test_an_interrupted_request_is_counted(stub_pool: MakePool, stub: StubDriver) -> None:
    """Whatever ends an acquire, it was asked for."""
    pool = stub_pool(max_size=1, background=False)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    stub.hooks["connect"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        pool.getconn()
    del stub.hooks["connect"]
    use(pool)
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_errors"], stats["timeouts"]) == (2, 1, 0)
    assert stats["requests_queued"] == 2


def test_a_connect_takes_no_longer_than_its_caller_waited(stub_pool: MakePool) -> None:
    began = time.monotonic()
    pool = stub_pool(max_size=1, background=False)
    use(pool)
    assert 0.0 < pool.get_stats()["create_time"]["sum"] <= time.monotonic() - began
