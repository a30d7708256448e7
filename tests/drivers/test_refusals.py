"""What a PostgreSQL driver finds out about a connect that failed, without reading its words."""

from __future__ import annotations

import importlib
import time
from typing import Any

import pytest

from dbpool import ConnectFailed, ConnectionPool, PoolDown
from dbpool.drivers.base import Driver
from testproject.postgres import PostgresServer, PostgresUnavailable
from tests.drivers.conftest import needs_psycopg
from tests.support.black_hole import BlackHole
from tests.support.callers import PATIENCE, MakePool
from tests.support.german import german_postgres
from tests.support.refusing_server import RefusingServer
from tests.support.servers import Postgres

both = pytest.mark.parametrize("driver", ["psycopg2", pytest.param("psycopg", marks=needs_psycopg)])
pytestmark = both


def driver_of(name: str) -> Driver:
    return ConnectionPool("", driver=name, open=False).driver


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("53300", "too_many_connections"),
        ("28P01", "auth"),
        ("28000", "auth"),
        ("42501", "auth"),
        ("3D000", "unknown_database"),
        ("57P03", "server_shutdown"),
        ("XX000", "connect_failed"),
        ("", None),
    ],
)
def test_the_code_of_a_refusal_is_found_whatever_its_words(
    driver: str, code: str, word: str | None
) -> None:
    with RefusingServer(code, "Het gaat niet: 12345") as server:
        assert driver_of(driver).refusal(server.dsn(), {}) == word
        assert len(server.logins) == 1


def test_no_code_comes_from_where_none_refuses(driver: str, postgres: Postgres) -> None:
    found = driver_of(driver)
    assert found.refusal(postgres.dsn(), {}) is None, "it is let in"
    assert found.refusal(postgres.dsn(port=1), {}) is None
    assert found.refusal(postgres.dsn(host="no-such-host.invalid"), {}) is None
    assert found.refusal(postgres.dsn(), {"no_such_option": 1}) is None


def test_a_server_that_says_nothing_has_refused_nothing(driver: str) -> None:
    with BlackHole() as hole, pytest.raises(TimeoutError):
        driver_of(driver).refusal(hole.url, {})


def test_a_class_that_connects_in_its_own_way_is_not_asked_past(driver: str) -> None:
    """It may bring its own password, and the refusal would be another one."""
    module: Any = importlib.import_module(driver)
    if driver == "psycopg2":

        class Own(module.extensions.connection):  # type: ignore[misc]
            def __init__(self, dsn: str, *args: Any, **kwargs: Any) -> None:
                super().__init__(f"{dsn} password=fetched", *args, **kwargs)

        kwargs = {"connection_factory": Own}
    else:

        class Other(module.Connection):  # type: ignore[misc]
            @classmethod
            def connect(cls, *args: Any, **kwargs: Any) -> Any:
                return super().connect(*args, password="fetched", **kwargs)

        kwargs = {"connection_class": Other}
    with RefusingServer("28P01", "Nee") as server:
        assert driver_of(driver).refusal(server.dsn(), kwargs) is None
        assert server.logins == []


def test_silence_is_told_by_the_time_and_not_by_a_text(driver: str) -> None:
    found = driver_of(driver)
    with BlackHole() as hole:
        url, started = hole.url, time.monotonic()
        with pytest.raises(found.OperationalError) as caught:
            found.connect(url, {"connect_timeout": 2}, timeout=2.0, name="test")
        took = time.monotonic() - started
    nameless = found.OperationalError("Zeit abgelaufen")
    assert found.timed_out(caught.value, took, url, {"connect_timeout": 2})
    assert found.timed_out(nameless, took, url, {"connect_timeout": 2})
    assert not found.timed_out(nameless, 0.5, url, {"connect_timeout": 2})
    assert not found.timed_out(nameless, took, url, {"connect_timeout": 60})


def test_german_words_mean_what_english_ones_do(driver: str, new_pool: MakePool) -> None:
    try:
        with german_postgres(password="right") as server:
            answers(driver, server, new_pool)
    except PostgresUnavailable as error:
        pytest.skip(str(error))


def answers(driver: str, server: PostgresServer, new_pool: MakePool) -> None:
    server.sql("CREATE ROLE limited LOGIN PASSWORD 'right' CONNECTION LIMIT 0")

    def refused(**parameters: str) -> Any:
        pool = new_pool(server.dsn(**parameters), driver=driver, down_wait=0.0, timeout=PATIENCE)
        with pytest.raises((ConnectFailed, PoolDown)) as caught:
            pool.getconn()
        pool.close()
        return caught.value

    assert refused(password="wrong").reason == "auth"
    assert refused(dbname="nowhere").reason == "unknown_database"
    assert refused(user="limited").cause == "too_many_connections"
