"""The PostgreSQL that tests talk to: what they may ask of it, and a look at its sessions."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Protocol

from testproject._postgres_address import as_dsn, as_url, may_log_in

try:
    from psycopg2 import connect
    from psycopg2.extensions import parse_dsn
except ModuleNotFoundError:  # where there is no GIL there is psycopg 3 alone
    from psycopg import connect
    from psycopg.conninfo import conninfo_to_dict as parse_dsn

__all__ = ["GivenPostgres", "Postgres", "connect", "count_sessions"]


class Postgres(Protocol):
    """A server that tests use and do not break."""

    def dsn(self, **overrides: Any) -> str:
        """Return a libpq string."""

    def url(self, **overrides: Any) -> str:
        """Return the same as a URL."""

    def login(self) -> str:
        """Return the options of CREATE ROLE by which dsn(user=…) lets a role in."""


class GivenPostgres:
    """The server of DBPOOL_TEST_DSN: somebody else's, so there is no verb here that harms it."""

    def __init__(self, dsn: str) -> None:
        self._parameters = parse_dsn(dsn)

    def dsn(self, **overrides: Any) -> str:
        return as_dsn({**self._parameters, **overrides})

    def url(self, **overrides: Any) -> str:
        return as_url({**self._parameters, **overrides})

    def login(self) -> str:
        return may_log_in(self._parameters.get("password"))


def count_sessions(server: Postgres, application_name: str) -> int:
    """Return how many sessions the server has under that name; `%` stands for anything."""
    with closing(connect(server.dsn(application_name="tests: counting"))) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s",
                [application_name],
            )
            row = cursor.fetchone()
            assert row
            return int(row[0])
