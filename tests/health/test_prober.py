"""What a health check costs the database, and on which connection it asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime

import psycopg2
import pytest

from dbpool import ConnectionPool
from tests.health.probing import CountingDriver, ask, check_of, forget_proof, idle, landed
from tests.support import inside
from tests.support.servers import Postgres, count_sessions
from tests.support.waiting import PATIENCE, wait_until

PASS = ("pass", ())


@pytest.fixture
def driver() -> CountingDriver:
    return CountingDriver()


def select(pool: ConnectionPool) -> None:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


# What it costs


def test_what_a_probe_found_is_kept(postgres: Postgres, driver: CountingDriver) -> None:
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        check = check_of(pool, ttl=60.0)
        assert [ask(check) for _ in range(100)] == [PASS] * 100
        assert (driver.probes, driver.spares) == (1, 1)


def test_what_a_probe_failed_by_is_kept_as_well(postgres: Postgres, driver: CountingDriver) -> None:
    def fail() -> None:
        raise psycopg2.OperationalError("no")

    with ConnectionPool(postgres.url(), driver=driver) as pool:
        check = check_of(pool, ttl=60.0)
        driver.on_probe = fail
        first = ask(check)
        assert first != PASS
        probes = driver.probes
        assert [ask(check) for _ in range(10)] == [first] * 10
        assert driver.probes == probes


def test_what_a_probe_found_is_told_with_the_time_of_the_probe(
    postgres: Postgres, driver: CountingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "ROLE_EVERY", 1000.0)  # or a second probe asks for the role
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        check = check_of(pool, ttl=1000.0, detail=lambda headers, address: True)
        assert ask(check) == PASS
        forget_proof(pool, "good")  # a minute old
        body = check.respond("GET", "/healthz/db", "verbose", [], "")[2]
        checks = json.loads(body)["checks"]
        (probed,), (counted,) = checks["default:responseTime"], checks["default:connections"]
        age = datetime.fromisoformat(counted["time"][:-1]) - datetime.fromisoformat(
            probed["time"][:-1]
        )
        assert 60 <= age.total_seconds() < 60 + PATIENCE
        assert driver.probes == 1


def test_what_a_probe_found_is_asked_again_after_a_second(
    postgres: Postgres, driver: CountingDriver
) -> None:
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        check = check_of(pool, ttl=0.02)
        wait_until(lambda: ask(check) == PASS and driver.probes == 3)
        assert driver.spares == 1


def test_traffic_is_proof_and_costs_no_query(postgres: Postgres, driver: CountingDriver) -> None:
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        check = check_of(pool)
        select(pool)
        assert ask(check) == PASS
        wait_until(lambda: driver.probes == 1 and landed(pool))  # for the role
        for _ in range(3):
            inside.put(pool, proved_at=0.0)
            select(pool)  # a commit is a round trip
            assert ask(check) == PASS
        assert (driver.probes, driver.spares) == (1, 0)


def test_the_role_is_asked_for_all_the_same(
    postgres: Postgres, driver: CountingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "ROLE_EVERY", 0.02)
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        idle(pool, 1)
        check = check_of(pool)

        def asked_three_times() -> bool:
            pool.note_success()
            assert ask(check) == PASS
            return driver.probes >= 3

        wait_until(asked_three_times)
        assert driver.spares == 0
        wait_until(lambda: landed(pool))


def test_with_proof_at_hand_nobody_waits_for_a_probe(
    postgres: Postgres, driver: CountingDriver
) -> None:
    go_on = threading.Event()
    driver.on_probe = lambda: go_on.wait(PATIENCE)
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        check = check_of(pool, deadline=2 * PATIENCE, ttl=60.0)
        idle(pool, 1)
        assert ask(check) == PASS
        wait_until(lambda: driver.probes == 1)  # for the role, which is due
        assert ask(check) == PASS
        assert not landed(pool), "they have waited for it"
        go_on.set()
        wait_until(lambda: landed(pool))


def test_a_failed_round_trip_makes_the_next_probe_due(
    postgres: Postgres, driver: CountingDriver
) -> None:
    with ConnectionPool(postgres.url(), driver=driver, validate_after=0) as pool:
        check = check_of(pool, ttl=60.0)
        idle(pool, 2)
        assert ask(check) == PASS
        wait_until(lambda: driver.probes == 1 and landed(pool))
        end_session(postgres, inside.idle(pool)[-1][0].info.backend_pid)
        with pool.connection():  # the other one, which was asked before it was lent
            assert pool.get_stats()["connections_lost"] == 1
            assert ask(check) == PASS
            assert driver.probes == 1
        connection = pool.getconn()
        end_session(postgres, connection.info.backend_pid)
        with pytest.raises(psycopg2.Error) as caught:
            connection.cursor().execute("SELECT 1")
        pool.report(connection, caught.value)
        assert ask(check) == PASS
        assert driver.probes == 2
        pool.putconn(connection)


def end_session(postgres: Postgres, pid: int) -> None:
    with closing(psycopg2.connect(postgres.dsn())) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


# On which connection


def test_an_idle_connection_is_taken_and_counts_as_nobodys(
    postgres: Postgres, driver: CountingDriver
) -> None:
    with ConnectionPool(postgres.url(), driver=driver, name="idle") as pool:
        idle(pool, 2)
        before = pool.get_stats()
        forget_proof(pool)
        assert ask(check_of(pool)) == PASS
        assert (driver.probes, driver.spares) == (1, 0)
        assert count_sessions(postgres, "dbpool-health:idle") == 0
        assert pool.get_stats() == {**before}
        inside.audit(pool)


def test_a_spare_one_is_outside_max_size_and_bears_its_name(
    postgres: Postgres, driver: CountingDriver
) -> None:
    url = postgres.url(application_name="shop")
    with ConnectionPool(url, driver=driver, name="full", max_size=2) as pool:
        check = check_of(pool)
        with pool.connection(), pool.connection():
            for _ in range(3):
                forget_proof(pool)
                assert ask(check) == PASS
            assert count_sessions(postgres, "dbpool-health:full") == 1
            assert count_sessions(postgres, "shop") == 2
            assert pool.get_stats()["pool_size"] == 2
        assert (driver.probes, driver.spares) == (3, 1)
        inside.audit(pool)


def test_a_full_pool_with_fresh_proof_answers_at_once_without_a_spare(
    postgres: Postgres, driver: CountingDriver
) -> None:
    with ConnectionPool(postgres.url(), driver=driver, max_size=1) as pool:
        with pool.connection():
            assert ask(check_of(pool, ttl=60.0)) == PASS
        assert (driver.probes, driver.spares) == (0, 0)


def test_the_spare_one_is_closed_when_it_is_unused(
    postgres: Postgres, driver: CountingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "SPARE_IDLE", 0.05)
    with ConnectionPool(postgres.url(), driver=driver, name="unused") as pool:
        check = check_of(pool)
        assert ask(check) == PASS
        wait_until(lambda: count_sessions(postgres, "dbpool-health:unused") == 0)
        forget_proof(pool)
        assert ask(check) == PASS
        assert driver.spares == 2


def test_the_spare_one_stays_while_it_is_used(
    postgres: Postgres, driver: CountingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "SPARE_IDLE", 30.0)
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        ask(check_of(pool))
        prober = inside.prober_of(pool)
        wait_until(lambda: landed(pool))
        spare = inside.peek(prober, "spare")
        assert spare is not None
        assert inside.upkeep(prober, spare.used_at + 29.0) == spare.used_at + 30.0
        assert inside.peek(prober, "spare") is spare
        inside.upkeep(prober, spare.used_at + 30.0)
        assert inside.peek(prober, "spare") is None


def test_the_spare_one_ends_with_the_pool(postgres: Postgres) -> None:
    pool = ConnectionPool(postgres.url(), name="ends")
    assert ask(check_of(pool)) == PASS
    pool.close()
    wait_until(lambda: count_sessions(postgres, "dbpool-health:ends") == 0)


def test_a_pool_closed_during_a_probe_leaves_no_spare(
    postgres: Postgres, driver: CountingDriver
) -> None:
    close = threading.Event()
    driver.on_probe = lambda: close.wait(PATIENCE)
    pool = ConnectionPool(postgres.url(), driver=driver, name="closing")
    check = check_of(pool)
    caller = threading.Thread(target=ask, args=(check,))
    caller.start()
    wait_until(lambda: driver.probes == 1)
    pool.close()
    assert ask(check) == ("fail", ("closed",))
    close.set()
    caller.join()
    wait_until(lambda: count_sessions(postgres, "dbpool-health:closing") == 0)


def test_a_pool_paused_during_a_probe_leaves_no_spare(
    postgres: Postgres, driver: CountingDriver
) -> None:
    """One that is open keeps a server from stopping, in mode smart."""
    go_on = threading.Event()
    driver.on_probe = lambda: go_on.wait(PATIENCE)
    with ConnectionPool(postgres.url(), driver=driver, name="pausing probe") as pool:
        caller = threading.Thread(target=ask, args=(check_of(pool),))
        caller.start()
        wait_until(lambda: driver.probes == 1)
        pool.pause()
        go_on.set()
        caller.join()
        wait_until(lambda: count_sessions(postgres, "dbpool-health:pausing probe") == 0)


def test_a_paused_pool_is_not_asked_for_its_role(
    postgres: Postgres, driver: CountingDriver
) -> None:
    with ConnectionPool(postgres.url(), driver=driver, role="primary") as pool:
        pool.pause()
        assert ask(check_of(pool)) == ("warn", ("recovering",))
        assert inside.peek(inside.prober_of(pool), "flight") is None
        assert driver.spares == 0


def test_a_dropped_pool_leaves_no_spare(postgres: Postgres) -> None:
    pool = ConnectionPool(postgres.url(), name="dropped")
    assert ask(check_of(pool)) == PASS
    del pool
    wait_until(lambda: count_sessions(postgres, "dbpool-health:dropped") == 0)


def test_a_caller_who_meets_a_probe_is_served_next(
    postgres: Postgres, driver: CountingDriver
) -> None:
    go_on = threading.Event()
    driver.on_probe = lambda: go_on.wait(PATIENCE)
    with ConnectionPool(postgres.url(), driver=driver, max_size=1) as pool:
        idle(pool, 1)
        forget_proof(pool)
        prober = threading.Thread(target=ask, args=(check_of(pool),))
        prober.start()
        wait_until(lambda: driver.probes == 1)
        caller = threading.Thread(target=select, args=(pool,))
        caller.start()
        wait_until(lambda: len(inside.waiters(pool)) == 1)
        go_on.set()
        caller.join()
        prober.join()
        wait_until(lambda: landed(pool))
        inside.audit(pool)
        assert driver.spares == 0


@contextmanager
def role_limited_to(postgres: Postgres, sessions: int) -> Iterator[str]:
    """Yield a role that the server lets have so many sessions."""
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE few {postgres.login()} CONNECTION LIMIT {sessions}")
            try:
                yield "few"
            finally:
                cursor.execute("DROP ROLE few")


def test_a_refused_spare_is_only_a_warning_while_the_pool_lives(
    breakable_postgres: Postgres,
) -> None:
    with (
        role_limited_to(breakable_postgres, 1) as role,
        ConnectionPool(breakable_postgres.url(user=role), max_size=2) as pool,
    ):
        check = check_of(pool)
        with pool.connection():
            forget_proof(pool)
            assert ask(check) == ("warn", ("probe_unavailable",))
            assert check.respond("GET", "/healthz/db", "", {}, "")[0] == 200
        select(pool)
        assert ask(check) == PASS


def test_a_server_without_room_for_any_of_us_fails(breakable_postgres: Postgres) -> None:
    with (
        role_limited_to(breakable_postgres, 0) as role,
        ConnectionPool(breakable_postgres.url(user=role)) as pool,
    ):
        assert ask(check_of(pool)) == ("fail", ("too_many_connections",))
