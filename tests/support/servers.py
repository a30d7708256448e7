"""The PostgreSQL that tests talk to: what they may ask of it, and a look at its sessions."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

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
        return str(make_dsn(**{**self._parameters, **overrides}))

    def url(self, **overrides: Any) -> str:
        # libpq takes every parameter in the query, so nothing need be told apart.
        rest = {name: str(v) for name, v in {**self._parameters, **overrides}.items()}
        user, host = quote(rest.pop("user", ""), safe=""), quote(rest.pop("host", ""), safe="")
        secret = f":{quote(rest.pop('password'), safe='')}" if "password" in rest else ""
        port = f":{rest.pop('port')}" if "port" in rest else ""
        name = quote(rest.pop("dbname", ""), safe="")
        query = f"?{urlencode(rest, quote_via=quote)}" if rest else ""
        at = "@" if user else ""
        return f"postgresql://{user}{secret}{at}{host}{port}/{name}{query}"


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
