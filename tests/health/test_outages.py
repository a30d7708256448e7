"""What a health check says, and when, while the database is not well."""

from __future__ import annotations

import threading
import time

import pytest

from dbpool import ConnectionPool, PoolDown, PoolTimeout
from dbpool.health import HealthCheck
from testproject.postgres import PostgresServer
from tests.health.probing import CountingDriver, ask, check_of, forget_proof, idle, landed, why
from tests.support import inside
from tests.support.black_hole import BlackHole
from tests.support.callers import PATIENCE, in_thread
from tests.support.servers import Postgres, count_sessions
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until

PASS = ("pass", ())
# Query and caller have the same deadline: the next connect may have begun when the caller wakes.
SILENT = ("query_timeout", "connect_timeout")


# The server


@pytest.mark.outage
def test_connections_that_went_stale_in_a_restart_fail_no_check(
    breakable_postgres: PostgresServer,
) -> None:
    driver = CountingDriver()
    with ConnectionPool(breakable_postgres.url(), driver=driver) as pool:
        check = check_of(pool)
        idle(pool, 3)
        breakable_postgres.restart()
        forget_proof(pool)
        assert ask(check) == PASS
        assert (driver.probes, driver.spares) == (1, 1)
        breakable_postgres.restart()  # now the spare one is stale, too
        forget_proof(pool)
        assert ask(check) == PASS
        assert (driver.probes, driver.spares) == (2, 2)  # seen to be dead, not asked


@pytest.mark.outage
def test_down_and_up_again(breakable_postgres: PostgresServer) -> None:
    with ConnectionPool(breakable_postgres.url()) as pool:
        check = check_of(pool)
        idle(pool, 1)
        assert ask(check) == PASS
        breakable_postgres.stop()
        forget_proof(pool)
        assert why(check) == "connect_refused"
        breakable_postgres.start()
        wait_until(lambda: ask(check) == PASS)


@pytest.mark.outage
def test_a_frozen_server_fails_the_check_and_costs_no_slot(
    breakable_postgres: PostgresServer,
) -> None:
    driver = CountingDriver()
    with ConnectionPool(breakable_postgres.url(), driver=driver, max_size=2) as pool:
        check = check_of(pool, deadline=0.5)
        idle(pool, 2)
        forget_proof(pool)
        breakable_postgres.freeze()
        assert why(check) in SILENT
        # The one that did not answer is given up, and a new one tried: alone, however many ask.
        wait_until(lambda: driver.spares == 1)
        assert [why(check) for _ in range(100)] == ["connect_timeout"] * 100
        assert (driver.probes, driver.spares) == (1, 1)
        breakable_postgres.thaw()
        wait_until(lambda: ask(check) == PASS)
        wait_until(lambda: landed(pool))
        with pool.connection(), pool.connection():
            pass
        inside.audit(pool)


@pytest.mark.outage
def test_traffic_that_gets_through_outweighs_a_probe_that_is_stuck(
    breakable_postgres: PostgresServer,
) -> None:
    with ConnectionPool(breakable_postgres.url(), max_size=1) as pool:
        check = check_of(pool, deadline=0.1, ttl=PATIENCE)
        with pool.connection() as connection:
            forget_proof(pool)
            breakable_postgres.freeze(backends=False)  # open sessions go on
            assert why(check) == "connect_timeout"
            connection.cursor().execute("SELECT 1")
            connection.commit()
            pool.note_success()
            assert not landed(pool)
            assert ask(check) == PASS
        breakable_postgres.thaw()
        wait_until(lambda: landed(pool))


def test_a_link_that_fell_silent_fails_one_check_at_most(postgres: Postgres) -> None:
    """Only another connection tells whether it is the link or the server."""
    driver = CountingDriver()
    with BlackHole() as hole, ConnectionPool(postgres.url(), driver=driver, max_size=1) as pool:
        check = check_of(pool, deadline=0.5)
        idle(pool, 1)
        forget_proof(pool)
        silence(inside.idle(pool)[0][0].fileno(), hole)
        assert why(check) in SILENT
        wait_until(lambda: landed(pool))
        assert ask(check_of(pool)) == PASS
        assert driver.spares == 1
        wait_until(lambda: not inside.idle(pool))


def silence(descriptor: int, hole: BlackHole) -> None:
    """Put a connection to a server that never answers in the place of this one."""
    import os
    import socket
    from urllib.parse import urlsplit

    where = urlsplit(hole.url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as silent:
        os.dup2(silent.fileno(), descriptor)


# The pool's own states


def test_a_pool_that_is_down_fails_by_its_cause_and_costs_no_further_connect(
    postgres: Postgres,
) -> None:
    driver = CountingDriver()
    url = "postgresql://app@127.0.0.1:1/shop"
    with ConnectionPool(lambda: url, driver=driver, down_wait=0.0) as pool:
        with pytest.raises(PoolDown):
            pool.getconn()
        check = check_of(pool)
        assert [ask(check) for _ in range(5)] == [("fail", ("connect_refused",))] * 5
        assert driver.spares == 0, "the pool has a prober already"
        url = postgres.url()
        wait_until(lambda: ask(check) == PASS)
        assert driver.spares == 0


def test_a_pool_that_is_down_warns_while_what_is_open_works() -> None:
    stub = StubDriver()
    with ConnectionPool("", driver=stub, down_wait=0.0) as pool:
        check = check_of(pool)
        with pool.connection():

            def silence(_: object) -> None:
                raise StubError("connect_timeout")

            stub.hooks["connect"] = silence
            with pytest.raises(PoolDown):
                pool.getconn()
            pool.note_success()
            assert ask(check) == ("warn", ("probe_unavailable",))
            forget_proof(pool)
            assert ask(check) == ("fail", ("connect_timeout",))


def test_a_paused_pool_warns_and_keeps_no_session_open(postgres: Postgres) -> None:
    """An operator restarts the server: callers queue, and would do so elsewhere as well."""
    with ConnectionPool(postgres.url(), name="paused") as pool:
        check = check_of(pool)
        wait_until(lambda: ask(check) == PASS)  # by a spare connection
        assert pool.pause(wait=30.0)
        wait_until(lambda: count_sessions(postgres, "dbpool%:paused") == 0)
        assert [ask(check) for _ in range(3)] == [("warn", ("recovering",))] * 3
        pool.resume()
        wait_until(lambda: ask(check) == PASS)


def test_a_recovery_is_a_warning_until_it_is_over(postgres: Postgres) -> None:
    with ConnectionPool(postgres.url()) as pool:
        check = check_of(pool, ttl=60.0)
        idle(pool, 1)
        inside.outage(pool).recover()
        assert ask(check) == ("warn", ("recovering",))
        inside.upkeep(pool, time.monotonic())  # nobody waits, and nothing is missing
        assert ask(check) == PASS


# Deadlines and load


def test_several_black_holes_take_one_deadline_together() -> None:
    forever = 10 * PATIENCE
    with (
        BlackHole() as hole,
        ConnectionPool(hole.url, connect_timeout=forever) as one,
        ConnectionPool(hole.url, connect_timeout=forever) as two,
        ConnectionPool(hole.url, connect_timeout=forever) as three,
    ):
        pools = {"1": one, "2": two, "3": three}
        patient = in_thread(inside.verdicts, HealthCheck(lambda: pools, deadline=forever))
        wait_until(lambda: len(hole.accepted) == 3)  # one after the other: after two deadlines
        verdicts = inside.verdicts(HealthCheck(lambda: pools, deadline=0.5)) or {}
        assert [verdicts[name] for name in "123"] == [("fail", ("starting",))] * 3
        assert not patient.done()
    assert patient.exception(PATIENCE) is None


@pytest.mark.parametrize("server", ["live", "black hole"])
def test_600_checks_by_64_threads_cost_one_query_or_one_connection(
    server: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three bursts of 200; benchmarks/bench_health.py measures how long they take.

    Each thread waits for the one probe until its deadline, and so once, not at each check: told by
    the seconds that are asked for, since those that pass are as many as the machine is busy.
    """
    asked_for: list[float] = []

    class Landing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            asked_for.append(timeout)
            return super().wait(timeout)

    class WatchedFlight(inside.Probe):
        def __init__(self, started: float, deadline: float) -> None:
            super().__init__(started, deadline)
            self.done = Landing()

    inside.patch(monkeypatch, "Probe", WatchedFlight)
    inside.patch(monkeypatch, "ROLE_EVERY", PATIENCE)
    driver = CountingDriver()
    # The live one answers, whenever that is; the other one never does.
    deadline = PATIENCE if server == "live" else 0.5
    with BlackHole() as hole:
        url = postgres.url() if server == "live" else hole.url
        with ConnectionPool(url, driver=driver, connect_timeout=PATIENCE) as pool:
            check = check_of(pool, ttl=PATIENCE, deadline=deadline)
            answers: list[int] = []

            def customer(number: int, go: threading.Barrier) -> None:
                go.wait()
                for _ in range(number, 200, 64):
                    answers.append(check.respond("GET", "/healthz/db", "", {}, "")[0])

            for _ in range(3):
                go = threading.Barrier(64)
                threads = [threading.Thread(target=customer, args=(n, go)) for n in range(64)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            assert len(answers) == 600
            assert set(answers) == {200 if server == "live" else 503}
            assert 0 < sum(asked_for) <= 64 * deadline
            reached = 0 if server == "live" else 1
            wait_until(lambda: len(hole.accepted) >= reached, message="the probe gets there")
            assert driver.spares == 1
            assert driver.probes == (1 if server == "live" else 0)
            assert len(hole.accepted) == reached


# Degraded


def test_a_full_pool_with_a_queue_is_a_warning(postgres: Postgres) -> None:
    with ConnectionPool(postgres.url(), max_size=1) as pool:
        check = check_of(pool, ttl=60.0)
        with pool.connection():
            assert ask(check) == PASS  # full, and nobody waits
            caller = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
            caller.start()
            wait_until(lambda: ask(check) == ("warn", ("saturated",)))
            assert check.respond("GET", "/healthz/db", "", {}, "")[0] == 200
        caller.join()
        assert ask(check) == PASS


def test_a_timeout_is_remembered_for_some_seconds(postgres: Postgres) -> None:
    with ConnectionPool(postgres.url(), max_size=1) as pool:
        check = check_of(pool, ttl=60.0)
        with pool.connection():
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0)
        assert ask(check) == ("warn", ("saturated",))
        inside.put(pool, timed_out_at=inside.peek(pool, "timed_out_at") - 10.0)
        assert ask(check) == PASS


def test_a_slow_probe_is_a_warning_until_a_fast_one(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the test's own: how quick this machine is must not matter."""
    driver = CountingDriver()
    slower: list[float] = []
    driver.on_probe = lambda: slower.append(100.0)
    inside.patch(monkeypatch, "probe_clock", lambda: inside.now() + sum(slower))
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        check = check_of(pool, slow=30.0)
        assert ask(check) == ("warn", ("slow",))
        driver.on_probe = int
        slower.clear()
        forget_proof(pool, "last")
        assert ask(check) == PASS
        assert driver.probes == 2


def test_a_primary_that_turns_read_only_after_a_good_probe_is_a_warning(
    postgres: Postgres,
) -> None:
    driver = CountingDriver()
    with ConnectionPool(postgres.url(), driver=driver, role="primary") as pool:
        check = check_of(pool, ttl=60.0)
        assert ask(check) == PASS
        for writable, answer in ((False, ("warn", ("read_only",))), (True, PASS)):
            driver.writable = writable
            forget_proof(pool)
            assert ask(check) == answer
            assert ask(check) == answer  # what is known


def test_read_only_matters_where_a_pool_is_declared_primary(postgres: Postgres) -> None:
    driver = CountingDriver()
    driver.writable = False
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        assert ask(check_of(pool)) == PASS
        inside.put(pool, role="primary")
        assert ask(check_of(pool)) == ("warn", ("read_only",))
