"""Pools for the tests of the core; at its end each is closed and held to its invariants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dbpool import ConnectionPool
from testproject.postgres import PostgresServer
from tests.support.callers import MakePool, settled
from tests.support.gate import Gate
from tests.support.servers import Postgres
from tests.support.stub_driver import StubDriver


@pytest.fixture
def new_pool() -> Iterator[MakePool]:
    """Make pools with `new_pool(conninfo, **options)`, or `new_pool(driver=StubDriver())`."""
    made: list[ConnectionPool] = []

    def make(conninfo: Any = "", **options: Any) -> ConnectionPool:
        made.append(ConnectionPool(conninfo, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
        settled(pool)
        assert pool.closed
        assert pool.get_stats()["pool_available"] == 0


@pytest.fixture
def pg_pool(new_pool: MakePool, postgres: Postgres) -> MakePool:
    """Make pools on the server that nobody breaks."""
    return lambda **options: new_pool(postgres.dsn(), **options)


@pytest.fixture
def stub() -> StubDriver:
    """A driver without a database; its hooks make it slow, hang or fail."""
    return StubDriver()


@pytest.fixture
def gate(stub: StubDriver) -> Iterator[Gate]:
    """Hold up the connects of the `stub` driver until the test lets them go, or ends."""
    found = Gate(stub)
    yield found
    found.open()


@pytest.fixture
def stub_pool(new_pool: MakePool, stub: StubDriver) -> MakePool:
    """Make pools on the `stub` driver."""
    return lambda **options: new_pool(driver=stub, **options)


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A server over plain TCP, and one that speaks TLS."""
    if request.param == "plain":
        yield request.getfixturevalue("postgres")
        return
    with PostgresServer(ssl=True) as tls:
        yield tls
