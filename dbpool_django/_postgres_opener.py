"""How a pool opens connections to PostgreSQL."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool.drivers import _postgres
from dbpool.drivers.base import Driver

from ._opener import Opener

__all__ = ["PostgresOpener"]

# Compared for `reset="auto"`, so that a change is seen also when a function made it, or code that
# goes past Django's cursors. The search path is reported from PostgreSQL 18 on.
_REPORTED = ("TimeZone", "DateStyle", "application_name", "client_encoding", "search_path")


class PostgresOpener(Opener):
    """Time zone and role are set once per connection, and nothing waits for ever on the network."""

    def __init__(
        self,
        driver: Driver,
        wrapper: BaseDatabaseWrapper,
        configure: Callable[[Any], object] | None,
    ) -> None:
        super().__init__(driver, wrapper, configure)
        self._watched: tuple[str, ...] = ()
        # What the server reported of each session when it was configured, by id of the connection.
        self._configured: dict[int, tuple[Any, ...]] = {}

    def _parameters(self, given: dict[str, Any], timeout: float, name: str) -> dict[str, Any]:
        return {**_postgres.defaults(given, os.environ, math.ceil(timeout), name), **given}

    def configure(self, conn: Any) -> None:
        """Give a connection Django's time zone and role, then what the user wants."""
        wrapper: Any = self._detached()
        # Django quotes a role's name through the wrapper, which would connect for that.
        wrapper.connection = conn
        try:
            wrapper._configure_connection(conn)
        finally:
            wrapper.connection = None  # nobody but the borrower holds it, or no slot comes back
        super().configure(conn)
        self._configured[id(conn)] = self._reported(conn)

    def has_drifted(self, conn: Any) -> bool:
        """Return whether the server reports another session than when it was configured.

        No round trip: the server tells its clients of these changes by itself.
        """
        return self._configured.get(id(conn)) != self._reported(conn)

    def _reported(self, conn: Any) -> tuple[Any, ...]:
        # psycopg2 has a method for it; making psycopg2's `info` costs as much again.
        status = getattr(conn, "get_parameter_status", None) or conn.info.parameter_status
        if not self._watched:
            self._watched = tuple(name for name in _REPORTED if status(name) is not None)
        return tuple(map(status, self._watched))

    def close(self, conn: Any) -> None:
        """Close a connection."""
        self._configured.pop(id(conn), None)
        self._driver.close(conn)
