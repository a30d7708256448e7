"""A Django project for one test: settings, and tables in a schema of its own."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import psycopg2
from psycopg2.extensions import parse_dsn

from tests.health.golden import PATIENT
from tests.support.servers import Postgres

__all__ = ["DRIVER", "INSIDE", "Project", "database", "in_thread", "is_inside"]

T = TypeVar("T")

INSIDE = "DBPOOL_TEST_INSIDE"

# Which driver Django takes here: psycopg 3 wherever it can be imported. `make test` has an
# environment without it, and test_switching.py holds the environment to what it is said to be.
DRIVER = "psycopg" if importlib.util.find_spec("psycopg") else "psycopg2"


def is_inside() -> bool:
    """Return whether this is the process of one test, with Django set up."""
    return INSIDE in os.environ


def database(dsn: str, pool: object = None, **changes: Any) -> dict[str, Any]:
    """Return the entry of DATABASES for a libpq string; `pool=None` leaves the option out."""
    parameters = parse_dsn(dsn)
    settings: dict[str, Any] = {
        "ENGINE": "dbpool_django.backends.postgresql",
        "NAME": parameters.pop("dbname", ""),
        "USER": parameters.pop("user", ""),
        "PASSWORD": parameters.pop("password", ""),
        "HOST": parameters.pop("host", ""),
        "PORT": parameters.pop("port", ""),
        "OPTIONS": dict(parameters),
    }
    if pool is not None:
        settings["OPTIONS"]["pool"] = pool
    return {**settings, **changes}


class Project:
    """Configures Django for this process; nothing of it can be undone but the tables."""

    def __init__(
        self,
        postgres: Postgres,
        *,
        pool: object = None,
        settings: Mapping[str, Any] | None = None,
        database: Mapping[str, Any] | None = None,
        tables: bool = True,
    ) -> None:
        self._postgres = postgres
        self._pool = pool
        self._settings = dict(settings or {})
        self._database = dict(database or {})
        self._tables = tables
        # Not by the process alone: numbers of processes come again, also of those that were killed.
        self.schema = f"dbpool_test_{os.getpid()}_{secrets.token_hex(4)}"

    @property
    def dsn(self) -> str:
        """A libpq string for sessions of the test's own, in the same schema."""
        return self._postgres.dsn(options=f"-c search_path={self.schema}")

    def __enter__(self) -> Project:
        import django
        from django.conf import settings

        self.sql(f"CREATE SCHEMA {self.schema}")
        configured = {
            "DATABASES": {"default": database(self.dsn, self._pool, **self._database)},
            "INSTALLED_APPS": ["tests.web_django.shelf"],
            "ROOT_URLCONF": "tests.web_django.site",
            "ALLOWED_HOSTS": ["*"],
            "SECRET_KEY": "only for tests",
            "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
            "USE_TZ": True,
            "LOGGING_CONFIG": None,
            **PATIENT,
            **self._settings,
        }
        settings.configure(**configured)
        django.setup()
        if self._tables:
            self._create_tables()
        return self

    def __exit__(self, *exc: object) -> None:
        from django.db import connections

        connections.close_all()
        for alias in connections:
            if hasattr(connections[alias], "close_pool"):
                connections[alias].close_pool()
        self.sql(f"DROP SCHEMA {self.schema} CASCADE")

    def _create_tables(self) -> None:
        from tests.web_django.shelf.models import Book

        # By a session of its own: the test's first query is the pool's first.
        table = Book._meta.db_table
        self.sql(f"CREATE TABLE {table} (id bigserial PRIMARY KEY, title text NOT NULL UNIQUE)")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement in a session of its own, and commit it."""
        with closing(psycopg2.connect(self.dsn, application_name="tests: beside")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def titles(self) -> list[str]:
        """Return what is committed, as another session sees it."""
        return [title for (title,) in self.sql("SELECT title FROM shelf_book ORDER BY title")]

    def sessions(self, name: str = "dbpool:default") -> int:
        """Return how many sessions of that name the server has."""
        return int(
            self.sql(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                f"AND application_name = '{name}'"
            )[0][0]
        )


def in_thread(function: Callable[[], T]) -> T:
    """Run it in a thread that has ended when this returns; raise what it raises."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(function).result()
