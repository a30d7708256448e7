"""The drivers under test, each with a database: what the contract may ask of all of them."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.core.conftest import new_pool
from tests.drivers.own_driver import OwnDriver
from tests.support.callers import MakePool
from tests.support.servers import Postgres

__all__ = ["Backend", "backend", "make", "needs_psycopg", "new_pool"]

needs_psycopg = pytest.mark.skipif(
    importlib.util.find_spec("psycopg") is None,
    reason="psycopg 3 has an environment of its own: make test-psycopg",
)


@dataclass
class Backend:
    """A driver and its database."""

    name: str
    conninfo: Any
    missing: Any  # a conninfo of a database that is not there
    driver: Callable[[], Any] = lambda: None
    # Attributes of a connection that a borrower may change, and to what.
    changes: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)  # one that shows in `shown`
    shown: Callable[[Any], Any] = lambda conn: None

    @property
    def is_postgres(self) -> bool:
        return self.name.startswith("psycopg")

    def begin(self, conn: Any) -> None:
        """Open a transaction by SQL, where the driver has not done so by itself."""
        run(conn, "BEGIN")

    def autocommit(self, conn: Any) -> None:
        """Make the driver open no transaction by itself."""
        if self.is_postgres:
            conn.autocommit = True
        else:
            conn.isolation_level = None


def run(conn: Any, sql: str) -> list[Any]:
    with closing(conn.cursor()) as cursor:
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


def _psycopg2(server: Postgres) -> Backend:
    from psycopg2 import extras

    return Backend(
        "psycopg2",
        server.dsn(),
        server.dsn(dbname="missing"),
        lambda: "psycopg2",
        {
            "autocommit": True,
            "isolation_level": 3,
            "readonly": True,
            "deferrable": True,
            "cursor_factory": extras.DictCursor,
        },
        {"options": "-c statement_timeout=4321"},
        lambda conn: run(conn, "SHOW statement_timeout") == [("4321ms",)],
    )


def _psycopg(server: Postgres) -> Backend:
    import psycopg
    from psycopg.rows import namedtuple_row

    return Backend(
        "psycopg",
        server.dsn(),
        server.dsn(dbname="missing"),
        lambda: "psycopg",
        {
            "autocommit": True,
            "isolation_level": psycopg.IsolationLevel.SERIALIZABLE,
            "read_only": True,
            "deferrable": True,
            "row_factory": namedtuple_row,
            "cursor_factory": psycopg.ClientCursor,
            "server_cursor_factory": type("Mine", (psycopg.ServerCursor,), {}),
            "prepare_threshold": None,
            "prepared_max": 7,
        },
        {"options": "-c statement_timeout=4321", "prepare_threshold": 3},
        lambda conn: (
            conn.prepare_threshold == 3 and run(conn, "SHOW statement_timeout") == [("4321ms",)]
        ),
    )


def _sqlite(name: str, conninfo: str, missing: str, driver: Callable[[], Any]) -> Backend:
    changes: dict[str, Any] = {"isolation_level": "IMMEDIATE", "row_factory": sqlite3.Row}
    if driver() is None:
        changes["text_factory"] = bytes
        if hasattr(sqlite3.Connection, "autocommit"):
            changes["autocommit"] = True
    return Backend(
        name,
        conninfo,
        missing,
        driver,
        changes,
        {"isolation_level": "EXCLUSIVE"},
        lambda conn: conn.isolation_level == "EXCLUSIVE",
    )


@pytest.fixture(
    params=[
        "psycopg2",
        pytest.param("psycopg", marks=needs_psycopg),
        "sqlite3 file",
        "sqlite3 memory",
        "own",
        # Where connect() returns a tracer's proxy.
        "psycopg2, traced",
        pytest.param("psycopg, traced", marks=needs_psycopg),
        "sqlite3 file, traced",
    ]
)
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Backend:
    name, _, traced = request.param.partition(", ")
    if traced:
        from tests.support.proxies import trace  # wrapt is not everywhere that these tests are

        trace(monkeypatch)
    file, missing = tmp_path / "file.db", tmp_path / "no such place" / "file.db"
    if name == "sqlite3 file":
        return _sqlite(name, f"sqlite:///{file}", f"sqlite:///{missing}", lambda: None)
    if name == "sqlite3 memory":
        return _sqlite(name, "sqlite://", f"sqlite:///{missing}", lambda: None)
    if name == "own":
        return _sqlite(name, str(file), str(missing), OwnDriver)
    server: Postgres = request.getfixturevalue("postgres")
    return _psycopg2(server) if name == "psycopg2" else _psycopg(server)


@pytest.fixture
def make(backend: Backend, new_pool: MakePool) -> MakePool:
    """Make pools with the driver under test; the table `driver_test (i)` is there and empty."""
    with ConnectionPool(backend.conninfo, driver=backend.driver()) as pool:
        if backend.name != "sqlite3 memory":
            _set_up(pool)

    def pool_of_it(conninfo: Any = backend.conninfo, **options: Any) -> ConnectionPool:
        pool = new_pool(conninfo, driver=backend.driver(), **options)
        if backend.name == "sqlite3 memory" and conninfo == backend.conninfo:
            _set_up(pool)
        return pool

    return pool_of_it


def _set_up(pool: ConnectionPool) -> None:
    with pool.connection() as conn:
        run(conn, "DROP TABLE IF EXISTS driver_test")
        run(conn, "CREATE TABLE driver_test (i int)")
