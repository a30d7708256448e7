"""Which driver serves a conninfo. A driver is imported only when a pool for it is made."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._shown import shown
from .._values import takes
from .base import Driver
from .wrapped import WrappedDriver, completed

__all__ = [
    "Driver",
    "WrappedDriver",
    "accepted",
    "choose",
    "completed",
    "driver_of",
    "wait_with_gevent",
]

# By name: the module and class here, and how the package is had where it is missing.
_DRIVERS = {
    "psycopg2": ("dbpool.drivers.psycopg2", "Psycopg2Driver", "dbpool-web[psycopg2]"),
    "psycopg": ("dbpool.drivers.psycopg", "PsycopgDriver", "dbpool-web[psycopg]"),
    "sqlite3": ("dbpool.drivers.sqlite3", "Sqlite3Driver", "a Python that has its sqlite3 module"),
}
_SCHEMES = {
    "postgresql": ("psycopg2", "psycopg"),
    "postgres": ("psycopg2", "psycopg"),
    "postgresql+psycopg2": ("psycopg2",),
    "postgresql+psycopg": ("psycopg",),
    "sqlite": ("sqlite3",),
}
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*)://")


def accepted(
    conninfo: Any, wanted: str | Driver | None, kwargs: Any
) -> tuple[Driver, str | Callable[[], str], Mapping[str, Any] | Callable[[], Mapping[str, Any]]]:
    """Return a pool's driver, conninfo and kwargs, the latter two as `connect` takes them.

    Raises what `choose` raises. Callables are called at each connect, and looked at then.
    """
    if conninfo is None:  # what choose() takes for one that comes later
        raise TypeError("conninfo=None is not possible: leave it out for the PG* variables")
    if not (kwargs is None or callable(kwargs) or isinstance(kwargs, Mapping)):
        raise TypeError(
            f"kwargs is of type {type(kwargs).__name__}: it takes a mapping, or a callable that "
            "returns one"
        )
    for option, given in (("conninfo", conninfo), ("kwargs", kwargs)):
        if callable(given) and not takes(given):
            raise TypeError(f"{option} is a callable that cannot be called without arguments")
    driver, plain = choose(None if callable(conninfo) else conninfo, wanted, kwargs)
    return driver, conninfo if plain is None else plain, {} if kwargs is None else kwargs


def choose(
    conninfo: str | None, wanted: str | Driver | None, kwargs: object = None
) -> tuple[Driver, str | None]:
    """Return the driver, and the conninfo as that driver reads it.

    Arguments: `conninfo`, None where it is known only at connect time; `wanted`, a driver's name,
    a `Driver` of the user's own, or None to go by the URL's scheme; `kwargs` of the pool, looked
    at if it is a mapping.
    Raises ValueError for an unknown scheme or driver name, for a driver that does not serve the
    scheme and for a malformed conninfo; TypeError for a conninfo or driver of another type; each
    for kwargs that the driver cannot take; ModuleNotFoundError for a driver package that is not
    installed, ImportError for one that is broken. None quotes the conninfo.
    """
    if conninfo is not None and not isinstance(conninfo, str):
        raise TypeError(
            f"conninfo is of type {type(conninfo).__name__}: it takes a string, or a callable that "
            "returns one"
        )
    scheme, conninfo = _by_scheme(conninfo, wanted)
    if wanted is None:
        driver = _load(_SCHEMES[scheme or "postgresql"])
    elif isinstance(wanted, str):
        if wanted not in _DRIVERS:
            # More than a word is a conninfo in the wrong place, and may hold a password.
            raise ValueError(f"unknown driver {shown(wanted)}: use {_any_of(_DRIVERS)}")
        if scheme is not None and wanted not in _SCHEMES[scheme]:
            raise ValueError(
                f"driver={wanted!r} does not serve {scheme}:// URLs: leave driver= out, or use "
                f"{_any_of(_SCHEMES[scheme])}"
            )
        driver = _load((wanted,))
    elif isinstance(wanted, type) or not hasattr(wanted, "transaction_status"):
        raise TypeError(
            f"driver is {_described(wanted)}: it takes {_any_of(_DRIVERS)}, or an object that "
            "follows dbpool.drivers.base.Driver"
        )
    else:
        return completed(wanted), conninfo
    if conninfo is not None:
        driver.check_conninfo(conninfo)
    if isinstance(kwargs, Mapping):
        driver.check_kwargs(kwargs)
    return driver, conninfo


def driver_of(conn: Any) -> Driver:
    """Return the driver that a connection is of. Raises TypeError if it is of none."""
    # By __class__, which a tracer's proxy has from what it stands for.
    for cls in conn.__class__.__mro__:
        package = cls.__module__.partition(".")[0]
        if package in _DRIVERS:
            return _load((package,))
    raise TypeError(
        f"this is {_described(conn)}: check_connection takes a connection of {_any_of(_DRIVERS)}"
    )


def _by_scheme(conninfo: str | None, wanted: str | Driver | None) -> tuple[str | None, str | None]:
    """Return the scheme, None if there is none, and the conninfo without the driver's name."""
    match = _SCHEME.match(conninfo or "")
    if match is None or conninfo is None:  # a libpq string; an empty one means the PG* variables
        return None, conninfo
    scheme = match.group(1).lower()
    if scheme not in _SCHEMES:
        if wanted is not None and not isinstance(wanted, str):
            return None, conninfo
        raise ValueError(
            f"unknown URL scheme {shown(scheme)}: use {_any_of(_SCHEMES)}, or pass driver= an "
            "object of your own"
        )
    plain = "postgresql" if scheme.startswith("postgres") else scheme
    return scheme, plain + conninfo[match.end(1) :].lstrip()


def _load(names: tuple[str, ...]) -> Driver:
    for name in names:
        if importlib.util.find_spec(name) is not None:
            module, cls, package = _DRIVERS[name]
            try:
                driver: Driver = getattr(importlib.import_module(module), cls)()
            except ImportError as error:
                raise ImportError(
                    f"{name} is installed but cannot be imported ({error}): install {package}",
                    name=name,
                ) from error
            return driver
    raise ModuleNotFoundError(
        f"no driver package found: install {' or '.join(_DRIVERS[name][2] for name in names)} "
        f"(looked for {_any_of(names)})",
        name=names[0],
    )


def _described(wanted: object) -> str:
    if isinstance(wanted, type):
        return f"the class {wanted.__name__}"
    return f"of type {type(wanted).__name__}"


def _any_of(names: Iterable[str]) -> str:
    return ", ".join(names)


def wait_with_gevent() -> None:
    """Have psycopg2 let other greenlets run while one of them waits for the database.

    Call it once, when the process starts, and after gevent's monkey-patch. It sets psycopg2's wait
    callback, for all of its connections in the process. psycopg 3 needs nothing of the kind.
    """
    from ._green import install_gevent

    install_gevent()
