"""A database with three tables for the apps of these tests, and a look into it past any pool."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient

from dbpool import ConnectionPool
from dbpool_flask import DBPool
from tests.support import inside
from tests.support.servers import Postgres
from tests.support.waiting import wait_until

# Which driver the apps of these tests have: "psycopg" where `make test-psycopg` runs them.
DRIVER = os.environ.get("DBPOOL_TEST_DRIVER", "psycopg2")
pg: Any = importlib.import_module(DRIVER)  # for its errors

TABLES = """
    CREATE TABLE note (id serial PRIMARY KEY, text text NOT NULL);
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    -- At COMMIT, not before, its own session is ended by the server.
    CREATE TABLE deadly (id int);
    CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER die AFTER INSERT ON deadly
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die();
"""


class Database:
    """One database; what is in it, and who is connected to it."""

    def __init__(self, server: Postgres, name: str) -> None:
        self.name = name
        self.dsn = server.dsn(dbname=name, application_name="tests: looking")
        self.url = server.url(dbname=name)

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own."""
        with closing(psycopg2.connect(self.dsn)) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []

    def notes(self) -> list[str]:
        """Return the notes that were committed, in order."""
        return [text for (text,) in self.execute("SELECT text FROM note ORDER BY id")]

    def sessions(self) -> list[str]:
        """Return the state of each session that the pools of apps have here."""
        rows = self.execute(
            "SELECT state FROM pg_stat_activity"
            " WHERE datname = %s AND application_name LIKE 'dbpool%%'",
            self.name,
        )
        return [state for (state,) in rows]


@pytest.fixture(scope="session")
def _database(postgres: Postgres) -> Iterator[Database]:
    name = f"web_flask_{os.getpid()}"
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            database = Database(postgres, name)
            database.execute(TABLES)
            yield database
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(_database: Database) -> Database:
    """The tables, empty."""
    _database.execute("TRUNCATE note, parent, child, deadly")
    return _database


@dataclass
class Site:
    """An app with its extension, and what a test asks of both."""

    app: Flask
    db: DBPool
    database: Database

    @property
    def pool(self) -> ConnectionPool:
        return self.pools["default"]

    @property
    def pools(self) -> Mapping[str, ConnectionPool]:
        with self.app.app_context():
            return self.db.pools

    def lent(self) -> int:
        """Return how many connections are in somebody's hands."""
        return sum(len(inside.in_use(pool)) for pool in self.pools.values())

    def write(self, text: str) -> None:
        """Write a note; for views."""
        with self.db.connection.cursor() as cursor:
            cursor.execute("INSERT INTO note (text) VALUES (%s)", [text])

    def violate(self) -> None:
        """Write what fails at COMMIT and not before; for views."""
        with self.db.connection.cursor() as cursor:
            cursor.execute("INSERT INTO child VALUES (1)")

    def fail(self) -> None:
        """Have a statement fail; for views."""
        with self.db.connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    def client(self) -> FlaskClient:
        return self.app.test_client()


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(database: Database) -> Iterator[MakeSite]:
    """Make apps; afterwards every connection of theirs must be back."""
    sites: list[Site] = []

    def make(db: DBPool | None = None, **config: Any) -> Site:
        db = db or DBPool()
        app = Flask(f"site{len(sites)}")
        if not config.keys() & {"DBPOOL_URL", "DBPOOL_DATABASES"}:
            config["DBPOOL_URL"] = database.url
        app.config.update(config)
        app.config["DBPOOL_OPTIONS"] = {"driver": DRIVER, **config.get("DBPOOL_OPTIONS", {})}
        db.init_app(app)
        sites.append(Site(app, db, database))
        return sites[-1]

    yield make
    for site in sites:
        # A context that a failing test keeps in a traceback may still hold one.
        wait_until(lambda s=site: gc.collect() >= 0 and not s.lent(), message="all are back")
        for pool in site.pools.values():
            wait_until(lambda p=pool: _is_whole(p), message=lambda p=pool: f"{p!r} is whole")
            pool.close()


def _is_whole(pool: ConnectionPool) -> bool:
    try:
        inside.audit(pool)
    except AssertionError:  # the keeper may be looking at an idle connection just now
        return False
    return True


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """One app on the database of these tests; errors are answered, not raised into the test."""
    return make_site()
