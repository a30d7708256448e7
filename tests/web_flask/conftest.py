"""A database with three tables for the apps of these tests, and a look into it past any pool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from tests.support.servers import Postgres

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
