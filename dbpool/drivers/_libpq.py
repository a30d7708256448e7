"""What psycopg2 and psycopg have in common as drivers: both connect by libpq."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from .. import _socket
from . import _hosts, _postgres
from .base import ACTIVE, Driver

__all__ = ["LibpqDriver"]


class LibpqDriver(Driver):
    """A driver whose conninfo is a URL or a string of libpq's, and its kwargs libpq's options."""

    name_option = "application_name"
    takes_settings = True

    @abstractmethod
    def _parse(self, conninfo: str) -> dict[str, Any]:
        """Return the options of a conninfo; raise ValueError, quoting nothing of it."""

    def check_conninfo(self, conninfo: str) -> None:
        """Raise ValueError, quoting nothing of it, if `conninfo` is malformed."""
        self._parse(conninfo)

    def _given(self, conninfo: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return conninfo and kwargs together."""
        return {**self._parse(conninfo), **kwargs}

    def address(self, conninfo: str, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what decides which server is connected to."""
        return _postgres.address(self._given(conninfo, kwargs), os.environ)

    def endpoints(self, address: Any) -> list[tuple[str, str]]:
        """Return hosts and ports of an `address`; none if they are sockets here, or not known."""
        return _postgres.endpoints(address)

    def connect_seconds(self, conninfo: str, kwargs: Mapping[str, Any], timeout: float) -> float:
        """Return how long `connect` may take: the user's own connect_timeout, if longer."""
        return _postgres.connect_seconds(self._given(conninfo, kwargs), os.environ, timeout)

    def with_settings(
        self, conninfo: str, kwargs: Mapping[str, Any], settings: Mapping[str, float]
    ) -> Mapping[str, Any]:
        """Return `kwargs` with server settings (in seconds) that a session starts with."""
        given = self._given(conninfo, kwargs)
        return _postgres.with_settings(given, kwargs, os.environ, settings)

    def routed(
        self, conninfo: str, kwargs: Mapping[str, Any], last: Any, primary: bool
    ) -> Mapping[str, Any]:
        """Return `kwargs` with the hosts in the order in which they are to be tried."""
        given = self._given(conninfo, kwargs)
        return _postgres.routed(given, kwargs, last, primary, os.environ)

    def with_defaults(
        self, conninfo: str, kwargs: Mapping[str, Any], timeout: float, name: str
    ) -> Mapping[str, Any]:
        """Return `kwargs` with timeouts, keepalives and the name that the user has not set."""
        given = self._given(conninfo, kwargs)
        return {**_postgres.defaults(given, os.environ, timeout, name), **kwargs}

    def host(self, conn: Any) -> tuple[str, str] | None:
        """Return the host and port that it is connected to."""
        return conn.info.host, str(conn.info.port)

    def read_only(self, conn: Any) -> bool | None:
        """Return whether the server takes no writes, as it has last reported; None: unknown."""
        return _hosts.is_read_only(conn.info)

    def is_disconnect(self, conn: Any, error: BaseException) -> bool:
        """Return whether the connection is of no further use.

        `closed` and the SQLSTATE are not enough: after an immediate restart over a unix socket
        psycopg2 raises a plain DatabaseError without a code and still calls itself open. Nor does
        the SQLSTATE say whose session has ended: it may be one of another pool, or one that the
        server itself had open (dblink). When its own ends libpq reads on until the link does, so
        one that is quiet, and not in the midst of an answer, has not ended.
        """
        if conn.closed:
            return True
        fd = self.fileno(conn)
        seen = _socket.DEAD if fd is None else _socket.look(_socket.poller(fd))
        if seen == _socket.DEAD:
            return True
        sqlstate = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
        return _postgres.is_disconnect(sqlstate) and (
            seen != _socket.ALIVE or self.transaction_status(conn) == ACTIVE
        )
