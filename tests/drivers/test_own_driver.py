"""A driver of the user's own, which is no `Driver` by its class, has the defaults of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbpool.drivers import Driver, WrappedDriver, completed
from dbpool.drivers.base import bare
from tests.drivers.own_driver import OwnDriver
from tests.support.callers import MakePool
from tests.support.stub_driver import StubDriver

ASKED: dict[str, Any] = {
    "settings": {},
    "last_host": None,
    "primary": False,
    "timeout": 3.0,
    "name": "own",
}


def test_it_has_every_method_of_the_protocol() -> None:
    driver = completed(OwnDriver())
    assert isinstance(driver, Driver)
    assert driver.parameters("file", {"x": 1}, **ASKED) == ({"x": 1}, None, 3.0)
    assert driver.canceller(None) is None
    assert driver.read_only(None) is None
    assert driver.host(None) is None
    assert (driver.name, driver.name_option, driver.takes_settings) == ("own", "", False)
    driver.pool_closed()


def test_a_driver_by_its_class_is_left_as_it_is() -> None:
    stub = StubDriver()
    assert completed(stub) is stub


class Talkative(OwnDriver):
    """Has some of the optional methods."""

    name_option = "label"

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.closed = 0

    def address(self, conninfo: str, kwargs: Mapping[str, Any]) -> str:
        return f"at {conninfo}"

    def connect_seconds(self, conninfo: str, kwargs: Mapping[str, Any], timeout: float) -> float:
        return timeout * 2

    def with_settings(
        self, conninfo: str, kwargs: Mapping[str, Any], settings: Mapping[str, float]
    ) -> Mapping[str, Any]:
        return {**kwargs, **settings}

    def routed(
        self, conninfo: str, kwargs: Mapping[str, Any], last: Any, primary: bool
    ) -> Mapping[str, Any]:
        self.seen.append((last, primary))
        return kwargs

    def host(self, conn: Any) -> str:
        return "here"

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        self.seen.append((dict(kwargs), timeout))
        return super().connect(conninfo, {}, timeout=timeout, name=name)

    def pool_closed(self) -> None:
        self.closed += 1


def test_what_it_has_of_the_optional_methods_is_used(tmp_path: Path, new_pool: MakePool) -> None:
    own = Talkative()
    pool = new_pool(
        str(tmp_path / "file"),
        driver=own,
        statement_timeout=5.0,
        connect_timeout=2.0,
        max_size=1,
        role="primary",
    )
    with pool.connection():
        pass
    pool.drain()
    with pool.connection():
        pass
    sent = ({"statement_timeout": 5.0}, 4.0)
    assert own.seen == [(None, True), sent, ("here", True), sent]
    pool.close()
    assert own.closed == 1


def test_a_wrapped_driver_says_once_what_a_connect_is_made_with(
    tmp_path: Path, new_pool: MakePool
) -> None:
    class Elsewhere(WrappedDriver):
        def parameters(self, conninfo: str, kwargs: Mapping[str, Any], **asked: Any) -> Any:
            return super().parameters(conninfo, {**kwargs, "shard": 7}, **asked)

    own = Talkative()
    pool = new_pool(str(tmp_path / "file"), driver=Elsewhere(completed(own)), connect_timeout=2.0)
    with pool.connection():
        pass
    assert own.seen[1] == ({"shard": 7}, 4.0)


class Around:
    """As wrapt makes them."""

    def __init__(self, inner: Any) -> None:
        self.__wrapped__ = inner


def test_what_is_wrapped_is_found() -> None:
    inner = object()
    assert bare(inner) is inner
    assert bare(Around(inner)) is inner
    assert bare(Around(Around(inner))) is inner


def test_wrappers_that_go_in_a_circle_end() -> None:
    one, two = Around(None), Around(None)
    one.__wrapped__, two.__wrapped__ = two, one
    assert bare(one) in (one, two)
    one.__wrapped__ = one
    assert bare(one) is one
