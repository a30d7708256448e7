"""Proxies as tracers put them in the place of what a driver makes (ddtrace, elastic-apm, X-Ray).

They are wrapt's, whose objects pass isinstance() for what they stand for, have an id of their own,
and are refused by functions of the drivers that are written in C.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import wrapt

__all__ = ["ConnectionProxy", "CursorProxy", "ThinProxy", "trace"]


class CursorProxy(wrapt.ObjectProxy):  # type: ignore[misc]
    """A cursor whose execute() returns what the driver's does: the driver's."""

    def __init__(self, cursor: Any) -> None:
        super().__init__(cursor)
        self._self_executed = 0

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        self._self_executed += 1
        return self.__wrapped__.execute(*args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> Any:
        self._self_executed += 1
        return self.__wrapped__.executemany(*args, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__wrapped__)

    def __enter__(self) -> CursorProxy:
        self.__wrapped__.__enter__()
        return self


class ThinProxy(wrapt.ObjectProxy):  # type: ignore[misc]
    """A connection whose cursors are as thin: all other methods are the driver's."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return wrapt.ObjectProxy(self.__wrapped__.cursor(*args, **kwargs))


class ConnectionProxy(wrapt.ObjectProxy):  # type: ignore[misc]
    """A connection whose cursors are proxies, those that it executes on itself included."""

    def cursor(self, *args: Any, **kwargs: Any) -> CursorProxy:
        return CursorProxy(self.__wrapped__.cursor(*args, **kwargs))

    def execute(self, *args: Any, **kwargs: Any) -> CursorProxy:
        cursor = self.cursor()
        cursor.execute(*args, **kwargs)
        return cursor

    def __enter__(self) -> ConnectionProxy:
        self.__wrapped__.__enter__()
        return self


def trace(
    monkeypatch: pytest.MonkeyPatch, layers: int = 1, proxy: type[Any] = ConnectionProxy
) -> None:
    """Have each driver's connect return a proxy, or one around another, until the test's end.

    Functions of psycopg2 that are written in C get what the proxy stands for, as tracers have it.
    """
    for owner, name in _connects():
        for _ in range(layers):
            _wrap(monkeypatch, owner, name, proxy)
    for module in ("psycopg2.extensions", "psycopg2._json"):
        for name in ("register_type", "quote_ident"):
            if hasattr(sys.modules.get(module), name):
                _unwrap(monkeypatch, sys.modules[module], name)


def _connects() -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = [(sqlite3, "connect")]
    try:
        import psycopg2
    except ModuleNotFoundError:
        pass
    else:
        found.append((psycopg2, "connect"))
    try:
        import psycopg
    except ModuleNotFoundError:
        pass
    else:
        found += [(psycopg, "connect"), (psycopg.Connection, "connect")]
    return found


def _wrap(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, proxy: type[Any]) -> None:
    connect = getattr(owner, name)

    def traced(*args: Any, **kwargs: Any) -> Any:
        return proxy(connect(*args, **kwargs))

    monkeypatch.setattr(owner, name, staticmethod(traced) if isinstance(owner, type) else traced)


def _unwrap(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    function = getattr(owner, name)

    def unwrapping(*args: Any) -> Any:
        return function(*map(_bare, args))

    monkeypatch.setattr(owner, name, unwrapping)


def _bare(given: Any) -> Any:
    while isinstance(given, wrapt.ObjectProxy):
        given = given.__wrapped__
    return given
