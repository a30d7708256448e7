"""How a pool opens connections: as Django does, but by nobody's wrapper in particular."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool.drivers import _postgres
from dbpool.drivers.base import Driver

from ._settings import copied

__all__ = ["Opener"]


class Opener:
    """A driver of dbpool whose `connect` goes through a Django wrapper that has pooling off.

    The wrapper is of the class of the project's own, so that what that class changes (parameters,
    a password that is fetched) counts here too, once per connection instead of once per request.
    It is made anew for each connect, over a copy of the settings: neither the wrapper nor the
    thread that happened to make the pool is kept, nor does a later change of settings get in.
    """

    def __init__(
        self,
        driver: Driver,
        wrapper: BaseDatabaseWrapper,
        configure: Callable[[Any], object] | None,
    ) -> None:
        self._driver = driver
        self._class = type(wrapper)
        self._alias = wrapper.alias
        self._settings = _unpooled(wrapper.settings_dict)
        self._zone = {"timezone": wrapper.timezone, "timezone_name": wrapper.timezone_name}
        self._users_configure = configure
        self._watched: tuple[str, ...] = ()
        # What the server reported of each session when it was configured, by id of the connection.
        self._configured: dict[int, tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection in autocommit mode, by the settings; `kwargs` override them.

        The pool gives none but the name of a health check's spare connection.
        """
        wrapper = self._detached()
        given = wrapper.get_connection_params()
        defaults = _postgres.defaults(given, os.environ, math.ceil(timeout), name)
        try:
            conn = wrapper.get_new_connection({**defaults, **given, **kwargs})
        except Exception as error:
            getattr(self._driver, "forget_password", _nothing)(error)
            raise
        try:
            getattr(self._driver, "adopt", _nothing)(conn)
            conn.autocommit = True
        except BaseException:
            self._driver.close(conn)
            raise
        return conn

    def configure(self, conn: Any) -> None:
        """Give a connection Django's time zone and role, then what the user wants."""
        wrapper: Any = self._detached()
        # Django quotes a role's name through the wrapper, which would connect for that.
        wrapper.connection = conn
        try:
            wrapper._configure_connection(conn)
        finally:
            wrapper.connection = None  # nobody but the borrower holds it, or no slot comes back
        if self._users_configure is not None:
            self._users_configure(conn)
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

    def _detached(self) -> BaseDatabaseWrapper:
        wrapper = self._class(copied(self._settings), self._alias)
        wrapper.__dict__.update(self._zone)  # both are cached properties
        return wrapper


# Compared for `reset="auto"`, so that a change is seen also when a function made it, or code that
# goes past Django's cursors. The search path is reported from PostgreSQL 18 on.
_REPORTED = ("TimeZone", "DateStyle", "application_name", "client_encoding", "search_path")


def _nothing(about: object) -> None:
    """What a driver does that has nothing to do here."""


def _unpooled(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = copied(dict(settings))
    plain["OPTIONS"]["pool"] = False
    return plain
