"""What a failing check is called, and what of it is logged."""

from __future__ import annotations

import logging
import threading

import pytest

from dbpool import ConnectionPool, PoolTimeout
from testproject.postgres import PostgresServer
from tests.health.probing import CountingDriver, ask, check_of, forget_proof, idle, landed, why
from tests.health.situations import place
from tests.support import inside
from tests.support.black_hole import BlackHole
from tests.support.servers import Postgres
from tests.support.waiting import wait_until

PASS = ("pass", ())


def test_why_a_connect_failed(
    breakable_postgres: PostgresServer, scram_postgres: PostgresServer
) -> None:
    wrong = {
        "auth": scram_postgres.url(password="wrong"),
        # The page must not tell which databases there are.
        "connect_failed": breakable_postgres.url(dbname="nosuch"),
        "dns": breakable_postgres.url(host="nosuch.invalid"),
        "tls": breakable_postgres.url(sslmode="require"),
    }
    for word, url in wrong.items():
        with ConnectionPool(url) as pool:
            wait_until(lambda: why(check_of(pool)) == word, message=word)  # noqa: B023


def test_a_black_hole_is_starting_first_and_a_timeout_then() -> None:
    with BlackHole() as hole, ConnectionPool(hole.url, connect_timeout=2) as pool:
        check = check_of(pool, deadline=0.05)
        assert why(check) == "starting"
        wait_until(lambda: why(check) == "connect_timeout")


def test_a_query_that_fails_on_a_good_connection_is_no_lost_connection(
    postgres: Postgres,
) -> None:
    driver = CountingDriver()

    def fail() -> None:
        raise driver.OperationalError("permission denied for function pg_is_in_recovery")

    driver.on_probe = fail
    with ConnectionPool(postgres.url(), driver=driver) as pool:
        idle(pool, 3)
        forget_proof(pool)
        assert why(check_of(pool)) == "query_failed"
        assert (driver.probes, pool.get_stats()["pool_available"]) == (1, 3)


def test_what_nobody_thought_of_is_internal(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectionPool(postgres.url()) as pool:
        inside.patch(monkeypatch, "Spare", lambda *args: dict[str, int]()["hush"])
        assert why(check_of(pool)) == "internal"


def test_a_word_of_somebody_elses_driver_is_not_passed_on(postgres: Postgres) -> None:
    class Talkative(CountingDriver):
        def reason(self, error: BaseException) -> str:
            return "no_route_to_db.internal"

    with place("down", postgres) as url, ConnectionPool(url, driver=Talkative()) as pool:
        with pytest.raises(PoolTimeout):
            pool.getconn()
        wait_until(lambda: pool.state == "down")
        assert why(check_of(pool)) == "connect_failed"


# The log


def test_a_change_is_logged_once_without_host_or_password(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="dbpool.health")
    with place("down", postgres) as url, ConnectionPool(url, name="orders") as pool:
        check = check_of(pool, ttl=0.001)
        threads = [threading.Thread(target=ask, args=(check,)) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: landed(pool))
        (record,) = caplog.records
        said = record.getMessage()
        assert "'orders': health is fail, connect_refused (OperationalError)" in said
        assert not any(secret in said for secret in ("127.0.0.1", "hush", "app", "shop"))
        caplog.clear()
        pool.note_success()
        assert [ask(check_of(pool)) for _ in range(3)] == [PASS] * 3
        (record,) = caplog.records
        assert record.levelno == logging.INFO
        assert "health is pass; it was fail for" in record.getMessage()


def test_a_healthy_start_logs_nothing(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="dbpool.health")
    with ConnectionPool(postgres.url()) as pool:
        assert ask(check_of(pool)) == PASS
        assert inside.peek(inside.prober_of(pool), "told") is not None
    assert not caplog.records
