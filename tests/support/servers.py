"""The PostgreSQL that tests talk to: what they may ask of it, and a look at its sessions."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Protocol

import psycopg2
from psycopg2.extensions import parse_dsn

from testproject._postgres_address import as_dsn, as_url

__all__ = ["GivenPostgres", "Postgres", "count_sessions"]


class Postgres(Protocol):
    """A server that tests use and do not break."""

    def dsn(self, **overrides: Any) -> str:
        """Return a libpq string."""

    def url(self, **overrides: Any) -> str:
        """Return the same as a URL."""


class GivenPostgres:
    """The server of DBPOOL_TEST_DSN: somebody else's, so there is no verb here that harms it."""

    def __init__(self, dsn: str) -> None:
        self._parameters = parse_dsn(dsn)

    def dsn(self, **overrides: Any) -> str:
        return as_dsn({**self._parameters, **overrides})

    def url(self, **overrides: Any) -> str:
        return as_url({**self._parameters, **overrides})


def count_sessions(server: Postgres, application_name: str) -> int:
    """Return how many sessions the server has under that name; `%` stands for anything."""
    with closing(psycopg2.connect(server.dsn(application_name="tests: counting"))) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s",
                [application_name],
            )
            row = cursor.fetchone()
            assert row
            return int(row[0])
