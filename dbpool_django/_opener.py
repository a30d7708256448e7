"""How a pool opens connections: as Django does, but by nobody's wrapper in particular."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool.adapters import SessionWatch
from dbpool.drivers import Driver, WrappedDriver
from dbpool.drivers.base import Parameters

from ._settings import copied

__all__ = ["Opener"]


class _Asked(dict[str, Any]):
    """Parameters of a connect, and the wrapper that was asked for them and is to connect.

    Django's classes, and those made from them, keep on the wrapper what they have found meanwhile.
    """

    wrapper: BaseDatabaseWrapper


class Opener(WrappedDriver):
    """A driver of dbpool whose `connect` goes through a Django wrapper that has pooling off.

    The wrapper is of the class of the project's own, so that what that class changes (parameters,
    a password that is fetched) counts here too, once per connection instead of once per request.
    It is made anew for each connect, over a copy of the settings: neither the wrapper nor the
    thread that happened to make the pool is kept, nor does a later change of settings get in.
    """

    watch: SessionWatch | None = None  # where the server has sessions that can be changed

    def __init__(
        self,
        driver: Driver,
        wrapper: BaseDatabaseWrapper,
        configure: Callable[[Any], object] | None,
    ) -> None:
        super().__init__(driver)
        self._class = type(wrapper)
        self._alias = wrapper.alias
        self._settings = _unpooled(wrapper.settings_dict)
        self._zone = {"timezone": wrapper.timezone, "timezone_name": wrapper.timezone_name}
        self._users_configure = configure

    def parameters(self, conninfo: str, kwargs: Mapping[str, Any], **asked: Any) -> Parameters:
        """Return what Django connects with, and what the pool adds to it; `kwargs` override it.

        The pool gives none but the name of a health check's spare connection.
        """
        wrapper = self._detached()
        given = _Asked(self._given(wrapper))
        given.update(kwargs)
        try:
            found = self._driver.parameters("", given, **asked)
        except Exception as error:
            given.clear()
            raise error.with_traceback(None)  # noqa: B904 - its frames hold the password
        given.update(found.kwargs)
        given.wrapper = wrapper
        return found._replace(kwargs=given)

    def _given(self, wrapper: BaseDatabaseWrapper) -> dict[str, Any]:
        """Return what Django would connect with."""
        given: dict[str, Any] = wrapper.get_connection_params()
        return given

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection in autocommit mode, by what `parameters` has returned."""
        wrapper = kwargs.wrapper if isinstance(kwargs, _Asked) else self._detached()
        try:
            conn = wrapper.get_new_connection({**kwargs})
        except Exception as error:
            self._driver.forget_password(error)
            raise
        try:
            self._adopt(conn)
        except BaseException:
            self._driver.close(conn)
            raise
        return conn

    def refusal(self, conninfo: str, kwargs: Mapping[str, Any]) -> str | None:
        """Connect once more for what a refusal is about, unless a class connects in its own way.

        What it adds there (a password, say) would be missing, and another refusal be told.
        """
        module = self._class.get_new_connection.__module__
        if not module.startswith(("django.", "dbpool_django.")):
            return None
        return self._driver.refusal(conninfo, {**kwargs})

    def _adopt(self, conn: Any) -> None:
        """Take over a connection that Django has opened."""
        self._driver.adopt(conn)
        conn.autocommit = True

    def configure(self, conn: Any) -> None:
        """Give a connection what Django gives it beyond opening it, then what the user wants."""
        if self._users_configure is not None:
            self._users_configure(conn)

    def _detached(self) -> BaseDatabaseWrapper:
        wrapper = self._class(copied(self._settings), self._alias)
        wrapper.__dict__.update(self._zone)  # both are cached properties
        return wrapper


def _unpooled(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = copied(dict(settings))
    plain["OPTIONS"]["pool"] = False
    return plain
