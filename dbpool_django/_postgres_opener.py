"""How a pool opens connections to PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool._session import Reports
from dbpool.drivers import _postgres
from dbpool.drivers.base import Driver

from ._opener import Opener

__all__ = ["PostgresOpener"]


class PostgresOpener(Opener):
    """Time zone and role are set once per connection, and nothing waits for ever on the network."""

    def __init__(
        self,
        driver: Driver,
        wrapper: BaseDatabaseWrapper,
        configure: Callable[[Any], object] | None,
    ) -> None:
        super().__init__(driver, wrapper, configure)
        self._reports = Reports()  # for `reset="auto"`

    def connect_seconds(self, conninfo: str, kwargs: Mapping[str, Any], timeout: float) -> float:
        """Return how long `connect` may take: the project's own connect_timeout, if longer."""
        given = {**self._detached().get_connection_params(), **kwargs}
        return _postgres.connect_seconds(given, os.environ, timeout)

    def _parameters(self, given: dict[str, Any], timeout: float, name: str) -> dict[str, Any]:
        return {**_postgres.defaults(given, os.environ, timeout, name), **given}

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
        self._reports.remember(conn)

    def has_drifted(self, conn: Any) -> bool:
        """Return whether the server reports another session than when it was configured.

        No round trip: the server tells its clients of these changes by itself.
        """
        return self._reports.differ(conn)
