"""What psycopg2 and psycopg have in common as drivers: both connect by libpq."""

from __future__ import annotations

import functools
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from .._runtime import sockets
from .._shown import shown
from ..drivers import _conninfo, _dry_run, _hosts, _options, _postgres
from .base import ACTIVE, BUGS, Driver, Mistake

__all__ = ["LibpqDriver"]


class LibpqDriver(Driver):
    """A driver whose conninfo is a URL or a string of libpq's, and its kwargs libpq's options."""

    name_option = "application_name"
    takes_settings = True
    reports_statements = True
    # Seconds by which a connect may give up before its connect_timeout is over: libpq counted whole
    # ones till version 16.
    early = 0.0

    # Arguments of the driver's own `connect`: which values fit, and how an error says that.
    own: Mapping[str, tuple[Callable[[Any], bool], str]] = {}
    # Its argument for a conninfo, and another name that it has for dbname.
    conninfo_argument: str
    alias = "dbname"
    errors: tuple[type[Exception], ...] = ()  # of the driver's, for a use of it that is wrong

    @abstractmethod
    def _parsed(self, conninfo: str) -> dict[str, Any] | None:
        """Return the options of a conninfo; None if it is malformed."""

    @abstractmethod
    def _try_out(self, options: Mapping[str, Any]) -> str:
        """Connect with libpq's options alone; return the text of the error, "" without one."""

    @functools.lru_cache(maxsize=256)  # noqa: B019 - a driver is as good as the next one
    def _knows(self, option: str) -> bool:
        """Return whether libpq has an option of this name."""
        return option.isidentifier() and self._parsed(f"{option}=''") is not None

    def _parse(self, conninfo: str) -> dict[str, Any]:
        """Return the options of a conninfo; raise ValueError, quoting nothing of it."""
        _conninfo.check_text(conninfo)
        parsed = self._parsed(conninfo)
        if parsed is None:
            if unknown := _options.unknown_in(conninfo, self._knows):
                raise ValueError(f"the conninfo has an option that libpq has not, {unknown}")
            raise ValueError(_conninfo.MALFORMED)
        _conninfo.check_address(conninfo, parsed)
        return parsed

    def check_conninfo(self, conninfo: str) -> None:
        """Raise ValueError, quoting nothing of it, if `conninfo` is malformed."""
        self._parse(conninfo)

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError for an option that is none, ValueError for a part of an address."""
        _conninfo.check_kwargs(kwargs, self.conninfo_argument)
        for name, value in kwargs.items():
            if name in self.own:
                fits, takes = self.own[name]
                if not fits(value):
                    raise TypeError(
                        f"{name}={shown(value)} in kwargs is not possible: it takes {takes}"
                    )
            elif name != self.alias and not self._knows(str(name)):
                raise TypeError(
                    f"neither libpq nor {self.name} has an option {shown(name)}, which is in "
                    f"kwargs{_options.hint(str(name))}"
                )

    def mistake(
        self, error: BaseException, conninfo: str, kwargs: Mapping[str, Any]
    ) -> Mistake | None:
        """Return what is wrong with what `connect` was given, if that is why it failed.

        No promise hangs on libpq's words: see `_dry_run`.
        """
        if isinstance(error, BUGS):
            return super().mistake(error, conninfo, kwargs)
        given = self._given(conninfo, kwargs)
        if isinstance(error, self.errors):
            hidden = _dry_run.quotes(str(error), given)
            why = "" if hidden else f": {str(error).strip()}"
            return Mistake(f"connect raised {type(error).__name__}{why}", hidden)
        if self.reason(error) not in ("connect_failed", "tls"):
            return None
        given = {name: value for name, value in given.items() if name not in self.own}
        if self.alias in given:
            given["dbname"] = given.pop(self.alias)
        elsewhere = _postgres.elsewhere(given, os.environ)
        return _dry_run.mistake(given, elsewhere, os.environ, self._try_out)

    def _given(self, conninfo: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return conninfo and kwargs together."""
        return {**self._parse(conninfo), **kwargs}

    def address(self, conninfo: str, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what decides which server is connected to."""
        return _postgres.address(self._given(conninfo, kwargs), os.environ)

    def endpoints(self, address: Any) -> list[tuple[str, str]]:
        """Return hosts and ports of an `address`; none if they are sockets here, or not known."""
        return _postgres.endpoints(address)

    def place(self, address: Any) -> str:
        """Return an `address` in words, for an operator."""
        if not address:
            return ""
        service, host, hostaddr, port = address
        where = f"service {service}, " if service else ""
        return f"{where}host {hostaddr or host or '(the local socket)'}, port {port or '5432'}"

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

    def timed_out(
        self, error: BaseException, seconds: float, conninfo: str, kwargs: Mapping[str, Any]
    ) -> bool:
        """Return whether a connect has failed after `seconds` because nothing answered in time."""
        given = self._given(conninfo, kwargs)
        return seconds >= _postgres.host_seconds(given, os.environ) - self.early

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
        seen = sockets.DEAD if fd is None else sockets.look(sockets.poller(fd))
        if seen == sockets.DEAD:
            return True
        sqlstate = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
        return _postgres.is_disconnect(sqlstate) and (
            seen != sockets.ALIVE or self.transaction_status(conn) == ACTIVE
        )
