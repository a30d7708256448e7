"""Databases with the shop's tables: made by Django's migrate once, then copied."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from testproject.demo.servers import APPS, App, environment, manage
from tests.support.servers import Postgres
from tests.support.waiting import wait_until

_numbers = itertools.count(1)


class ShopDatabase:
    """One database of a shop, and a look into it past any pool."""

    def __init__(self, server: Postgres, name: str) -> None:
        self._server = server
        self.name = name

    @property
    def variables(self) -> dict[str, str]:
        """The environment by which both shops find it, with a report that does not dawdle."""
        dsn, url = self._server.dsn(dbname=self.name), self._server.url(dbname=self.name)
        return environment(dsn, url) | {"SHOP_REPORT_SECONDS": "0.01"}

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own and return its rows, if it has any."""
        with closing(psycopg2.connect(self._server.dsn(dbname=self.name))) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def counts(self) -> tuple[int, int, int]:
        """Return orders, their items, and the units left of all products."""
        ((orders,),) = self.rows("SELECT count(*) FROM shop_order")
        ((items,),) = self.rows("SELECT count(*) FROM shop_orderitem")
        ((stock,),) = self.rows("SELECT sum(stock) FROM shop_product")
        return orders, items, stock

    def sessions(self) -> int:
        """Return how many sessions anybody has in this database."""
        return self._of_sessions("count(*)")

    def end_sessions(self) -> None:
        """End every session in this database, and return when none is left."""
        wait_until(
            lambda: self._of_sessions("count(pg_terminate_backend(pid))") == 0,
            message=f"no session left in {self.name}",
        )

    def _of_sessions(self, aggregate: str) -> int:
        with closing(psycopg2.connect(self._server.dsn())) as connection:
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT {aggregate} FROM pg_stat_activity WHERE datname = %s", [self.name]
                )
                ((count,),) = cursor.fetchall()
                return int(count)


@contextmanager
def _database(server: Postgres, template: str = "template1") -> Iterator[str]:
    name = f"shop_{next(_numbers)}_{id(server) % 10**6}"
    made, base = sql.Identifier(name), sql.Identifier(template)
    with closing(psycopg2.connect(server.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(made, base))
            try:
                yield name
            finally:
                cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(made))


@pytest.fixture(scope="session")
def shop_template(postgres: Postgres) -> Iterator[str]:
    with _database(postgres) as name:
        variables = ShopDatabase(postgres, name).variables
        manage("migrate", variables)
        manage("seed --products 5 --stock 100", variables)
        yield name


@pytest.fixture(scope="session")
def shop_databases(postgres: Postgres, shop_template: str) -> Callable[[], Any]:
    """Return a context manager that makes a shop's database: products 1 to 5, and 6 is scarce."""

    @contextmanager
    def make() -> Iterator[ShopDatabase]:
        with _database(postgres, shop_template) as name:
            yield ShopDatabase(postgres, name)

    return make


@pytest.fixture
def shop_database(shop_databases: Callable[[], Any]) -> Iterator[ShopDatabase]:
    """A database of this test's own."""
    with shop_databases() as database:
        yield database


@pytest.fixture(scope="module", params=APPS, ids=lambda app: app.name)
def app(request: pytest.FixtureRequest) -> App:
    """Each of the two shops in turn."""
    return request.param
