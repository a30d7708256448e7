"""psycopg2 where it waits by a callback: for gevent, eventlet, or so that Ctrl-C is heard.

Such a psycopg2 does not keep `connect_timeout`. Whatever the callback does, the keeper's thread
cuts the socket at the deadline, and who waits in it wakes.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from .._runtime import sockets
from .._runtime.clock import monotonic
from .._runtime.time_limit import TimeLimit
from ..drivers import _hosts

if TYPE_CHECKING:
    from .base import Driver

__all__ = ["Making", "install_gevent"]

logger = logging.getLogger("dbpool.pool")

_told: list[bool] = []  # once for a process


class Making:
    """What psycopg2 calls to make a connection (its `connection_factory`)."""

    __slots__ = ("_class", "_driver", "_seconds")

    def __init__(self, driver: Driver, connection_class: Any, seconds: float) -> None:
        self._driver = driver
        self._class = connection_class
        self._seconds = seconds

    @property
    def makes(self) -> Any:
        """The class of the connections."""
        return self._class

    def __call__(self, dsn: str, **kwargs: Any) -> Any:
        made_by = self._class
        if extensions.get_wait_callback() is None or not isinstance(made_by, type):
            _warn_of_gevent()
            return made_by(dsn, **kwargs)
        given = extensions.parse_dsn(dsn)
        seconds = self._seconds / _hosts.count(given)
        while True:
            # In two steps, for something whose socket can be cut while it connects.
            conn: Any = made_by.__new__(made_by, dsn, **kwargs)
            deadline = _Deadline(self._driver, conn, seconds)
            try:
                with deadline:
                    conn.__init__(dsn, **kwargs)
                return conn
            except psycopg2.OperationalError:
                # libpq itself leaves a host that is silent, but not one that has hung up.
                rest = _hosts.after(given, deadline.cut)
                if not rest:
                    raise
                given.update(rest)
                dsn = extensions.make_dsn(**given)


class _Deadline(TimeLimit):
    """`with _Deadline(...):` the connect inside has so long for each host."""

    __slots__ = ("cut",)

    def __init__(self, driver: Driver, conn: Any, seconds: float) -> None:
        super().__init__(driver, conn, seconds)
        self._driver: Driver = driver
        self.cut: Any = None  # the host that was cut off last

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        try:
            super().__exit__(kind)
        except TimeoutError:  # it was done, and cut off all the same
            self._driver.close(self._conn)
            kind = psycopg2.OperationalError
        if self.fired and kind is not None and issubclass(kind, psycopg2.Error):
            raise psycopg2.OperationalError(
                f"timeout expired: no connection within {self._seconds:g} s"
            ) from None

    def fire(self) -> None:
        """Cut the connection; called by the keeper, who comes again for what is tried next."""
        self.fired = True
        self.cut = self._driver.host(self._conn)
        sockets.sever_of(self._driver, self._conn)
        self.deadline = monotonic() + self._seconds


def _warn_of_gevent() -> None:
    """Tell once where each query stops all greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or _told or extensions.get_wait_callback() is not None:
        return
    if monkey.is_module_patched("socket"):
        _told.append(True)
        logger.warning(
            "gevent has patched this process, but psycopg2 stops all of its greenlets for as long "
            "as one of them waits for the database: call dbpool.drivers.wait_with_gevent() when "
            "the process starts, or use psycopg 3"
        )


def install_gevent() -> None:
    """Have psycopg2 wait as gevent does."""
    from gevent.socket import wait_read, wait_write

    def wait(conn: Any) -> None:
        while True:
            state = conn.poll()
            if state == extensions.POLL_OK:
                return
            if state == extensions.POLL_READ:
                wait_read(conn.fileno())
            elif state == extensions.POLL_WRITE:
                wait_write(conn.fileno())
            else:
                raise psycopg2.OperationalError(f"poll() of a connection has returned {state!r}")

    extensions.set_wait_callback(wait)
