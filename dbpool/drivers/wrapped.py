"""Drivers that stand on another one: the framework's, and what a user has written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from .base import Driver, Mistake, Parameters

__all__ = ["WrappedDriver", "completed"]


class WrappedDriver(Driver):
    """A driver that does as another one; a subclass says what it does differently.

    What a subclass overrides counts for calls of the pool. The other driver goes on calling its
    own: so `parameters` is the one to override, and not one of its parts.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.name = driver.name
        self.OperationalError = driver.OperationalError
        self.name_option = driver.name_option
        self.takes_settings = driver.takes_settings
        # Of each hand-out and return: without a frame of ours, unless a subclass has its own.
        for each in ("settled", "transaction_status"):
            if getattr(type(self), each) is getattr(WrappedDriver, each):
                self.__dict__[each] = getattr(driver, each)

    def check_conninfo(self, conninfo: str) -> None:
        """Raise ValueError, quoting nothing of it, if `conninfo` is malformed."""
        self._driver.check_conninfo(conninfo)

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError for kwargs of a pool that `connect` would refuse."""
        self._driver.check_kwargs(kwargs)

    def parameters(
        self,
        conninfo: str,
        kwargs: Mapping[str, Any],
        *,
        settings: Mapping[str, float],
        last_host: Any,
        primary: bool,
        timeout: float,
        name: str,
    ) -> Parameters:
        """Return what the next connect is to be made with: asked once for each, and just before."""
        return self._driver.parameters(
            conninfo,
            kwargs,
            settings=settings,
            last_host=last_host,
            primary=primary,
            timeout=timeout,
            name=name,
        )

    def address(self, conninfo: str, kwargs: Mapping[str, Any]) -> Any:
        """Return what decides which server is connected to; None: it is not known."""
        return self._driver.address(conninfo, kwargs)

    def connect_seconds(self, conninfo: str, kwargs: Mapping[str, Any], timeout: float) -> float:
        """Return how long `connect` may take: `timeout`, or longer if the user has said so."""
        return self._driver.connect_seconds(conninfo, kwargs, timeout)

    def with_settings(
        self, conninfo: str, kwargs: Mapping[str, Any], settings: Mapping[str, float]
    ) -> Mapping[str, Any]:
        """Return `kwargs` with server settings by name, in seconds."""
        return self._driver.with_settings(conninfo, kwargs, settings)

    def routed(
        self, conninfo: str, kwargs: Mapping[str, Any], last: Any, primary: bool
    ) -> Mapping[str, Any]:
        """Return `kwargs` with the hosts in the order in which they are to be tried."""
        return self._driver.routed(conninfo, kwargs, last, primary)

    def with_defaults(
        self, conninfo: str, kwargs: Mapping[str, Any], timeout: float, name: str
    ) -> Mapping[str, Any]:
        """Return `kwargs` with the defaults of a pool for what the user has not set."""
        return self._driver.with_defaults(conninfo, kwargs, timeout, name)

    def endpoints(self, address: Any) -> list[tuple[str, str]]:
        """Return hosts and ports of an `address`, to see whether anything answers there."""
        return self._driver.endpoints(address)

    def place(self, address: Any) -> str:
        """Return an `address` in words, for an operator; "" if there is nothing to say."""
        return self._driver.place(address)

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection within about `timeout` seconds; `name` is the application_name."""
        return self._driver.connect(conninfo, kwargs, timeout=timeout, name=name)

    def adopt(self, conn: Any) -> Any:
        """Take over a connection that somebody else has opened for a pool; return it."""
        return self._driver.adopt(conn)

    def forget_password(self, error: BaseException | None) -> None:
        """Take out of an error of a connect what it holds of the connection's parameters."""
        self._driver.forget_password(error)

    def host(self, conn: Any) -> Any:
        """Return which of several hosts it is connected to; None if that is of no use."""
        return self._driver.host(conn)

    def read_only(self, conn: Any) -> bool | None:
        """Return whether the server has reported that it takes no writes; None: it does not say."""
        return self._driver.read_only(conn)

    def canceller(self, conn: Any) -> Callable[[], None] | None:
        """Return what ends the statement that runs there, for another thread to call, or None."""
        return self._driver.canceller(conn)

    def cut_off(self, conn: Any) -> bool:
        """As in `Driver`."""
        return self._driver.cut_off(conn)

    def pool_closed(self) -> None:
        """Let go of what is kept for as long as the pool lives: it has closed."""
        self._driver.pool_closed()

    def replace_close(self, conn: Any, call: Callable[[], object] | None) -> None:
        """Have the connection's own close() call this instead, None for itself again."""
        self._driver.replace_close(conn, call)

    def close(self, conn: Any) -> None:
        """Close it; harmless on one that is closed or broken."""
        self._driver.close(conn)

    def fileno(self, conn: Any) -> int | None:
        """Return the descriptor of its socket, None if it has none (any more)."""
        return self._driver.fileno(conn)

    def transaction_status(self, conn: Any) -> int:
        """Return IDLE (0), ACTIVE, INTRANS, INERROR or UNKNOWN (broken); no round trip."""
        return self._driver.transaction_status(conn)

    def how_closed(self, conn: Any) -> str:
        """Return CLOSED, CLOSED_IN_TRANSACTION, or LOST: also where that cannot be told apart."""
        return self._driver.how_closed(conn)

    def in_autocommit(self, conn: Any) -> bool:
        """Return whether each statement commits by itself; also of one that is closed."""
        return self._driver.in_autocommit(conn)

    def attributes(self, conn: Any) -> Any:
        """Return the session attributes that a borrower may change; no round trip."""
        return self._driver.attributes(conn)

    def settled(self, conn: Any, attributes: Any) -> bool:
        """Return whether it is idle and its attributes are those; runs at each return."""
        return self._driver.settled(conn, attributes)

    def restore(self, conn: Any, attributes: Any) -> None:
        """Put back what `attributes` returned; the connection is not in a transaction."""
        self._driver.restore(conn, attributes)

    def commit(self, conn: Any) -> None:
        """Commit what is open."""
        self._driver.commit(conn)

    def rollback(self, conn: Any) -> None:
        """Roll back what is open on the server, in autocommit mode too."""
        self._driver.rollback(conn)

    def discard_session(self, conn: Any) -> None:
        """Forget all session state (`DISCARD ALL`); the connection is not in a transaction."""
        self._driver.discard_session(conn)

    def ping(self, conn: Any) -> None:
        """Make one round trip that leaves nothing behind; raise if the server does not answer."""
        self._driver.ping(conn)

    def probe(self, conn: Any) -> bool:
        """Make the health query; return whether the server accepts writes."""
        return self._driver.probe(conn)

    def reason(self, error: BaseException) -> str:
        """Return a word of REASONS for an error of `connect`."""
        return self._driver.reason(error)

    def mistake(
        self, error: BaseException, conninfo: str, kwargs: Mapping[str, Any]
    ) -> Mistake | None:
        """Return what is wrong with what `connect` was given, if that is why it failed."""
        return self._driver.mistake(error, conninfo, kwargs)

    def timed_out(
        self, error: BaseException, seconds: float, conninfo: str, kwargs: Mapping[str, Any]
    ) -> bool:
        """Return whether a connect has failed after `seconds` because nothing answered in time."""
        return self._driver.timed_out(error, seconds, conninfo, kwargs)

    def refusal(self, conninfo: str, kwargs: Mapping[str, Any]) -> str | None:
        """Connect once more, and return the word of REASONS for what the server refuses it with."""
        return self._driver.refusal(conninfo, kwargs)

    def is_disconnect(self, conn: Any, error: BaseException) -> bool:
        """Return whether `error` means that the connection is of no further use."""
        return self._driver.is_disconnect(conn, error)


def completed(driver: Any) -> Driver:
    """Return a driver of the user's own as a `Driver`, with the defaults for what it lacks."""
    return driver if isinstance(driver, Driver) else _Completed(driver)


class _Completed(WrappedDriver):
    """An object that follows `Driver` without being one."""

    def __init__(self, own: Any) -> None:
        self._driver = own
        for each in ("name", "OperationalError", "settled", "transaction_status"):
            self.__dict__[each] = getattr(own, each)
        lacking = [
            name for name in vars(Driver) if not name.startswith("_") and not hasattr(own, name)
        ]
        for name in lacking:
            default = getattr(Driver, name)
            if not getattr(default, "__isabstractmethod__", False):
                self.__dict__[name] = MethodType(default, self) if callable(default) else default
        self.name_option = getattr(own, "name_option", "")
        self.takes_settings = "with_settings" not in lacking
