"""A connect that was answered makes no pool down while something serves; silence does.

Whatever the answer is, and in whatever language: a PostgreSQL with German messages answers here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from dbpool import ConnectFailed, ConnectionPool, PoolDown, PoolTimeout
from dbpool.health import HealthCheck
from testproject.postgres import PostgresServer, PostgresUnavailable
from tests.support.callers import (
    PATIENCE,
    MakePool,
    ask,
    expect_full_capacity,
    gave_up_until,
    in_thread,
    lent,
    told,
    wait_for_waiters,
)
from tests.support.german import german_postgres
from tests.support.pgbouncer import PgBouncer, find_pgbouncer
from tests.support.refusing_server import RefusingServer
from tests.support.servers import connect
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until

PASSWORD = "correct horse"
CONF = {"max_connections": 12, "superuser_reserved_connections": 3}


@pytest.fixture(scope="module")
def english() -> Iterator[PostgresServer]:
    with PostgresServer(password=PASSWORD, conf=CONF) as server:
        prepare(server)
        yield server


@pytest.fixture(scope="module")
def german() -> Iterator[PostgresServer]:
    try:
        server = german_postgres(password=PASSWORD, conf=CONF)
        with server as started:
            prepare(started)
            yield started
    except PostgresUnavailable as error:
        pytest.skip(str(error))


def prepare(server: PostgresServer) -> None:
    for role in ("app", "limited"):
        server.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")


@pytest.fixture(params=["english", "german"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(request.param)
    found.ensure_running()
    return found


class Way:
    """A conninfo that may change: a fault that leaves open sessions alone."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.now = self.good = server.dsn(user="app")

    def __call__(self) -> str:
        return self.now

    def turn(self, fault: str) -> None:
        self.now = self.server.dsn(**{"user": "app", **FAULTS[fault]})


FAULTS: dict[str, dict[str, object]] = {
    "nothing listens": {"port": 1},
    "the name does not resolve": {"host": "no-such-host.invalid"},
    "the password has changed": {"password": "wrong"},
    "the database has gone": {"dbname": "nowhere"},
    "the role is at its limit": {"user": "limited"},
    "the role may not log in": {"user": "pg_monitor"},
}


def wait_for_failures(pool: ConnectionPool, count: int) -> None:
    wait_until(lambda: pool.get_stats()["connections_errors"] >= count, PATIENCE)


@pytest.mark.parametrize("fault", FAULTS)
def test_callers_wait_for_what_circulates_however_a_connect_is_answered(
    fault: str, server: PostgresServer, new_pool: MakePool
) -> None:
    server.sql("ALTER ROLE limited CONNECTION LIMIT 0")
    way = Way(server)
    pool = new_pool(way, max_size=3, timeout=PATIENCE, down_wait=0.0)
    with lent(pool, 1):
        way.turn(fault)
        callers = [in_thread(ask, pool) for _ in range(4)]
        wait_for_waiters(pool, 4)
        wait_for_failures(pool, 1 if "limit" in fault else 3)
        assert pool.state == "ok"
        wait_for_waiters(pool, 4)
    for caller in callers:
        caller.result(PATIENCE)
    assert pool.get_stats()["requests_errors"] == 0
    way.now = way.good
    pool.check()  # at once, whatever the pause
    wait_until(lambda: can_have(pool, 3), PATIENCE)


def can_have(pool: ConnectionPool, count: int) -> bool:
    pool.check()
    try:
        taken = [pool.getconn(timeout=0.2) for _ in range(count)]
    except PoolTimeout:
        return False
    for conn in taken:
        pool.putconn(conn)
    return True


def test_a_full_server_costs_no_error_while_connections_circulate(
    server: PostgresServer, new_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    room = CONF["max_connections"] - CONF["superuser_reserved_connections"]
    pool = new_pool(server.dsn(user="app"), max_size=5, timeout=PATIENCE, down_wait=0.0)
    others: list[Any] = []
    try:
        with lent(pool, 2):
            wait_until(lambda: fill(server, room, others), PATIENCE)
            callers = [in_thread(lambda: [ask(pool) for _ in range(20)]) for _ in range(6)]
            wait_until(lambda: "has no room for more connections" in caplog.text, PATIENCE)
            assert pool.state == "ok"
        for caller in callers:
            caller.result(PATIENCE)
    finally:
        for conn in others:
            conn.close()
    assert pool.get_stats()["requests_errors"] == 0


def fill(server: PostgresServer, room: int, others: list[Any]) -> bool:
    """Take sessions until the server refuses one; what has just ended may still count."""
    try:
        others.append(connect(server.dsn(user="app")))
    except Exception:  # noqa: BLE001 - of either driver
        return True
    return False


def test_a_full_server_with_nothing_open_is_told_as_that(
    server: PostgresServer, new_pool: MakePool
) -> None:
    server.sql("ALTER ROLE limited CONNECTION LIMIT 0")
    pool = new_pool(server.dsn(user="limited"), down_wait=0.0)
    error = told(pool, PATIENCE)
    assert error.cause == "too_many_connections"
    assert "no room for more connections" in str(error)
    assert "max_connections" in str(error)
    assert "is the database up" not in str(error)
    server.sql("ALTER ROLE limited CONNECTION LIMIT 10")
    wait_until(lambda: pool.state == "ok", PATIENCE)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("the password has changed", "auth"),
        ("the database has gone", "unknown_database"),
        ("the role may not log in", "auth"),
    ],
)
def test_what_no_retry_mends_is_told_at_once_where_nothing_is_open(
    fault: str, reason: str, server: PostgresServer, new_pool: MakePool
) -> None:
    way = Way(server)
    way.turn(fault)
    pool = new_pool(way, timeout=1000.0, down_wait=0.0)
    with pytest.raises(ConnectFailed) as caught:
        pool.getconn()
    assert caught.value.reason == reason
    assert pool.state == "ok", "that is no outage"
    said = str(caught.value.__cause__)
    assert "FATAL" in said
    for word in ("nowhere", "pg_monitor", PASSWORD, "wrong", "127.0.0.1"):
        assert word not in str(caught.value)


def test_the_server_is_asked_once_what_its_words_mean(
    german: PostgresServer, new_pool: MakePool
) -> None:
    """Each time is a login more, and some servers lock an account after so many."""
    german.ensure_running()
    way = Way(german)
    pool = new_pool(way, max_size=2, timeout=PATIENCE)
    before = german.log_text().count("Passwort-Authentifizierung")
    with lent(pool, 1):
        way.turn("the password has changed")
        caller = in_thread(pool.getconn)
        wait_for_failures(pool, 4)
        failures = pool.get_stats()["connections_errors"]
        seen = german.log_text().count("Passwort-Authentifizierung") - before
    pool.putconn(caller.result(PATIENCE))
    assert failures < seen <= 2 * 1 + failures + 1


def test_the_pool_is_down_when_the_last_that_served_has_died(
    english: PostgresServer, new_pool: MakePool
) -> None:
    way = Way(english)
    pool = new_pool(way, max_size=2, timeout=1000.0, down_wait=0.0)
    conn = pool.getconn(PATIENCE)
    way.turn("nothing listens")
    caller = in_thread(told, pool)
    wait_for_failures(pool, 3)
    assert pool.state == "ok"
    assert not caller.done()
    english.sql(f"SELECT pg_terminate_backend({conn.info.backend_pid})")
    pool.putconn(conn, close=True)
    assert caller.result(PATIENCE).cause == "connect_refused"
    assert pool.state == "down"
    way.now = way.good
    expect_full_capacity_of(pool)


def expect_full_capacity_of(pool: ConnectionPool) -> None:
    wait_until(lambda: pool.state == "ok", PATIENCE)
    expect_full_capacity(pool)


def test_one_that_is_lent_and_whose_server_has_gone_serves_nobody_any_more(
    english: PostgresServer, new_pool: MakePool
) -> None:
    """It is seen at its socket, while its borrower does something else."""
    way = Way(english)
    pool = new_pool(way, max_size=2, timeout=1000.0, down_wait=0.0)
    with lent(pool, 1) as (conn,):
        way.turn("nothing listens")
        caller = in_thread(told, pool)
        wait_for_failures(pool, 2)
        assert pool.state == "ok"
        english.sql(f"SELECT pg_terminate_backend({conn.info.backend_pid})")
        assert caller.result(PATIENCE).cause == "connect_refused"
        way.now = way.good


class SlowResolver(StubDriver):
    """Its connects fail after their time, as in a C library that waits for DNS."""

    def endpoints(self, address: Any) -> list[tuple[str, str]]:
        return [("no-such-host.invalid", "5432")]


def test_a_name_that_takes_too_long_to_not_resolve_is_an_answer(new_pool: MakePool) -> None:
    driver = SlowResolver()
    pool = new_pool(driver=driver, max_size=2, timeout=PATIENCE, down_wait=0.0)
    with lent(pool, 1):

        def late(_: object) -> None:
            raise StubError("connect_timeout")

        driver.hooks["connect"] = late
        caller = in_thread(pool.getconn)
        wait_for_failures(pool, 3)
        assert pool.state == "ok"
        with pytest.raises(PoolTimeout, match=r"connecting fails \(dns\): .* is the name right"):
            pool.getconn(0.01)
    pool.putconn(caller.result(PATIENCE))
    driver.hooks.clear()


@pytest.mark.outage
def test_silence_makes_it_down_whatever_is_open(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(
        breakable_postgres.dsn(), max_size=3, timeout=1000.0, connect_timeout=2, down_wait=0.0
    )
    with lent(pool, 1):
        breakable_postgres.freeze(backends=False)  # what is open goes on
        assert in_thread(told, pool).result(PATIENCE).cause == "connect_timeout"
        assert pool.state == "down"
    breakable_postgres.thaw()
    expect_full_capacity_of(pool)


def test_health_says_that_what_is_open_works(english: PostgresServer, new_pool: MakePool) -> None:
    way = Way(english)
    pool = new_pool(way, name="shop", max_size=2, timeout=PATIENCE, down_wait=0.0)
    check = HealthCheck(lambda: {"shop": pool}, detail=lambda headers, address: True, ttl=0.001)
    with lent(pool, 1):
        way.turn("the name does not resolve")
        caller = in_thread(pool.getconn)
        wait_for_failures(pool, 3)
        status, _, body = check.respond("GET", "/healthz/db", "verbose", [], "")
        assert status == 200, body
        assert b"probe_unavailable" in body
        # The same while traffic proves the server, so that the log does not tell of it each second.
        wait_for_failures(pool, 5)

        def told_while_proved() -> bool:
            pool.note_success()
            return b"probe_unavailable" in check.respond("GET", "/healthz/db", "verbose", [], "")[2]

        wait_until(told_while_proved)  # once connects have failed for a second
    pool.putconn(caller.result(PATIENCE))


# Poolers


@pytest.mark.skipif(find_pgbouncer() is None, reason="the program pgbouncer is not installed")
def test_a_pooler_at_its_limit_costs_no_error_while_connections_circulate(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    with PgBouncer(breakable_postgres, "transaction", clients=3) as pooler:
        pool = new_pool(pooler.dsn(), max_size=5, timeout=PATIENCE, down_wait=0.0)
        with closing(connect(pooler.dsn())), lent(pool, 2):
            callers = [in_thread(lambda: [ask(pool) for _ in range(20)]) for _ in range(8)]
            wait_for_failures(pool, 3)
            assert pool.state == "ok"
            wait_for_waiters(pool, 8)
        for caller in callers:
            caller.result(PATIENCE)
        assert pool.get_stats()["requests_errors"] == 0
        wait_until(lambda: can_have(pool, 3), PATIENCE, "it grows when there is room")


def test_words_that_nobody_understands_are_told_and_not_asked_for_three_times_a_second(
    new_pool: MakePool,
) -> None:
    with RefusingServer("XX000", "Locataire ou utilisateur introuvable") as server:
        pool = new_pool(server.dsn(), down_wait=0.0, timeout=1000.0)
        error = told(pool)
        assert isinstance(error, PoolDown)
        assert "Locataire" in str(error.__cause__)
        assert "answers and refuses" in str(error)
        assert "Locataire" not in str(error)
        wait_until(lambda: len(server.logins) >= 6, PATIENCE)
        gaps = [b - a for a, b in zip(server.logins[-3:], server.logins[-2:], strict=False)]
    assert max(gaps) > 0.6, "a login is tried as often as a server that may be back any moment"


@pytest.mark.parametrize(
    ("code", "cause"), [("53300", "too_many_connections"), ("57P03", "server_shutdown")]
)
def test_the_code_tells_what_the_words_do_not(
    code: str, cause: str, new_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dbpool")
    with RefusingServer(code, "Het gaat niet") as server:
        pool = new_pool(server.dsn(), down_wait=0.0, timeout=1000.0)
        assert told(pool).cause == cause
    assert f"is down, it cannot connect: {cause}" in caplog.text
    assert "Het gaat niet" not in caplog.text


def test_a_connect_that_is_closed_without_a_word_is_answered(new_pool: MakePool) -> None:
    with RefusingServer("", "") as server:
        pool = new_pool(server.dsn(), down_wait=0.0, timeout=1000.0)
        gave_up_until(lambda: pool.state == "down", pool)
        assert told(pool).cause == "connect_failed"
