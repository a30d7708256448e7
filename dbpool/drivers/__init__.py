"""Which driver serves a conninfo. A driver is imported only when a pool for it is made."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable

from .base import Driver

__all__ = ["Driver", "choose"]

_DRIVERS = {
    "psycopg2": ("dbpool.drivers.psycopg2", "Psycopg2Driver", "dbpool-web[psycopg2]"),
}
_SCHEMES = {
    "postgresql": ("psycopg2",),
    "postgres": ("psycopg2",),
    "postgresql+psycopg2": ("psycopg2",),
}
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*)://")


def choose(conninfo: str | None, wanted: str | Driver | None) -> tuple[Driver, str | None]:
    """Return the driver, and the conninfo as that driver reads it.

    Arguments: `conninfo`, None where it is known only at connect time; `wanted`, a driver's name,
    a `Driver` of the user's own, or None to go by the URL's scheme.
    Raises ValueError for an unknown scheme or driver name and for a malformed conninfo, TypeError
    for a conninfo or driver of another type, ModuleNotFoundError for a driver package that is not
    installed. None quotes the conninfo.
    """
    if conninfo is not None and not isinstance(conninfo, str):
        raise TypeError(
            f"conninfo is of type {type(conninfo).__name__}: it takes a string, or a callable that "
            "returns one"
        )
    candidates, conninfo = _by_scheme(conninfo, wanted)
    if wanted is None:
        driver = _load(candidates)
    elif isinstance(wanted, str):
        if wanted not in _DRIVERS:
            raise ValueError(f"unknown driver {wanted!r}: use {_any_of(_DRIVERS)}")
        driver = _load((wanted,))
    elif isinstance(wanted, type) or not hasattr(wanted, "transaction_status"):
        raise TypeError(
            f"driver={wanted!r} is not possible: it takes {_any_of(_DRIVERS)}, or an object that "
            "follows dbpool.drivers.base.Driver"
        )
    else:
        return wanted, conninfo
    if conninfo is not None:
        driver.check_conninfo(conninfo)
    return driver, conninfo


def _by_scheme(
    conninfo: str | None, wanted: str | Driver | None
) -> tuple[tuple[str, ...], str | None]:
    match = _SCHEME.match(conninfo or "")
    if match is None or conninfo is None:  # a libpq string; an empty one means the PG* variables
        return _SCHEMES["postgresql"], conninfo
    scheme = match.group(1).lower()
    if scheme not in _SCHEMES:
        if wanted is not None and not isinstance(wanted, str):
            return (), conninfo
        raise ValueError(
            f"unknown URL scheme {scheme!r}: use {_any_of(_SCHEMES)}, or pass driver= an object "
            "of your own"
        )
    plain = "postgresql" if scheme.startswith("postgres") else scheme
    return _SCHEMES[scheme], plain + conninfo[match.end(1) :].lstrip()


def _load(names: tuple[str, ...]) -> Driver:
    for name in names:
        if importlib.util.find_spec(name) is not None:
            module, cls, _ = _DRIVERS[name]
            driver: Driver = getattr(importlib.import_module(module), cls)()
            return driver
    raise ModuleNotFoundError(
        f"no driver package found: install {' or '.join(_DRIVERS[name][2] for name in names)} "
        f"(looked for {_any_of(names)})",
        name=names[0],
    )


def _any_of(names: Iterable[str]) -> str:
    return ", ".join(names)
