"""The configuration: every key once, and the pools that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbpool import ConnectionPool, drivers
from dbpool.adapters import SessionWatch, any_of, shown
from dbpool.health import SETTINGS
from dbpool.options import OPTIONS, nearest, unknown

from ._modes import WORDS, Mode
from ._routing import PRIMARY

__all__ = ["KEYS", "make_pools", "mode", "replica"]

KEYS = {
    "DBPOOL_URL": "the default database: a URL, a libpq string, or a callable that returns one",
    "DBPOOL_OPTIONS": "options of the pools, a mapping (also driver and kwargs)",
    "DBPOOL_DATABASES": "databases by name: a URL, or a mapping with url and options of its own",
    "DBPOOL_REPLICA": "which of DBPOOL_DATABASES is a replica of the default one, for reads",
    "DBPOOL_TRANSACTION": 'what ends a view\'s transaction: "request", "manual", "autocommit"',
    **{key: f"`{argument}` of `dbpool.health.HealthCheck`" for key, argument in SETTINGS.items()},
}

# Beside a request a look at the socket costs nothing, and a restarted server no error. What a
# request has set in its session is nothing to the next one.
_DEFAULTS = {"validate_after": 0.0, "reset": "auto"}

# The drivers whose statements reset="auto" can read.
_AUTO = ("psycopg2", "psycopg")

# `open` is ours: init_app never connects, each pool opens at its first use.
# A context's connection goes back by itself.
_OPTIONS = (
    *("driver", "kwargs"),
    *(name for name in OPTIONS if name not in ("open", "close_returns")),
)


def make_pools(
    config: Mapping[str, Any],
) -> tuple[dict[str, ConnectionPool], dict[str, SessionWatch]]:
    """Make the pools of an app, not opened yet, and what reset="auto" needs where it applies.

    Raises ValueError or TypeError for a wrong key or value, naming it and what is possible;
    ModuleNotFoundError for a driver that is not installed. None of them quotes a URL.
    """
    _refuse_unknown_keys(config)
    common = _mapping(config.get("DBPOOL_OPTIONS"), "DBPOOL_OPTIONS")
    _refuse_unknown_options(common, "DBPOOL_OPTIONS", _OPTIONS)
    databases = dict(_mapping(config.get("DBPOOL_DATABASES"), "DBPOOL_DATABASES"))
    url = config.get("DBPOOL_URL")
    if url is not None:
        if "default" in databases:
            raise ValueError(
                "DBPOOL_URL and DBPOOL_DATABASES['default'] both name the default database: "
                "leave one of them out"
            )
        databases = {"default": url, **databases}
    if not databases:
        raise ValueError(
            "no database is configured: set app.config['DBPOOL_URL'] (or DBPOOL_DATABASES) before "
            "init_app, for example to 'postgresql://user:password@host/dbname'"
        )
    pools: dict[str, ConnectionPool] = {}
    watches: dict[str, SessionWatch] = {}
    for name, value in databases.items():
        given = "DBPOOL_URL" if name == "default" and url is not None else None
        where = given or f"DBPOOL_DATABASES[{shown(name)}]"
        pools[name], watch = _make_pool(name, value, common, where)
        if watch is not None:
            watches[name] = watch
    return pools, watches


def mode(config: Mapping[str, Any]) -> Mode:
    """Return how transactions end where no decorator says so. Raises ValueError."""
    word = config.get("DBPOOL_TRANSACTION", "request")
    if not isinstance(word, str) or word not in WORDS:
        raise ValueError(
            f"DBPOOL_TRANSACTION={shown(word)} is not possible: it takes {any_of(WORDS)}"
        )
    return WORDS[word]


def replica(config: Mapping[str, Any], pools: Mapping[str, ConnectionPool]) -> str | None:
    """Return which of the databases is a replica of the default one. Raises ValueError."""
    name = config.get("DBPOOL_REPLICA")
    if name is None:
        return None
    if name == PRIMARY or PRIMARY not in pools:
        raise ValueError(
            f"DBPOOL_REPLICA={shown(name)} is not possible: it names a replica of the database "
            f"{PRIMARY!r}, which has to be configured beside it"
        )
    if name not in pools:
        hint = nearest(name, pools) or f"; there is {any_of(pools)}"
        raise ValueError(f"DBPOOL_REPLICA={shown(name)} is none of DBPOOL_DATABASES{hint}")
    return str(name)


def _make_pool(
    name: str, value: Any, common: Mapping[str, Any], where: str
) -> tuple[ConnectionPool, SessionWatch | None]:
    own: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"url": value}
    _refuse_unknown_options(own, where, ("url", *_OPTIONS))
    if "url" not in own:
        raise ValueError(f"{where} has no 'url'")
    url = own.pop("url")
    if not isinstance(url, str) and not callable(url):
        raise TypeError(
            f"{where} is of type {type(url).__name__}: it takes a URL, a libpq string, or a "
            "callable that returns one"
        )
    options: dict[str, Any] = {"name": name, **_DEFAULTS, **common, **own, "open": False}
    watch = None
    try:
        if options["reset"] == "auto":
            del options["reset"]
            known = None if callable(url) else url
            driver, _ = drivers.choose(known, options.get("driver"), options.get("kwargs"))
            configure = options.get("configure")
            if driver.name in _AUTO and OPTIONS["configure"].check(configure):
                watch = SessionWatch(configure)
                options["configure"] = watch.configure
        elif not OPTIONS["reset"].check(options["reset"]):
            raise ValueError(
                f"reset={shown(options['reset'])} is not possible: it takes "
                f"{OPTIONS['reset'].allowed}"
            )
        return ConnectionPool(url, **options), watch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{where}: {error}", name=error.name) from None
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{where}: {error}") from None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} is of type {type(value).__name__}: it takes a mapping")
    return value


def _refuse_unknown_keys(config: Mapping[str, Any]) -> None:
    for key in config:
        if key.startswith("DBPOOL_") and key not in KEYS:
            raise ValueError(unknown(key, KEYS, {}, what="configuration key"))


def _refuse_unknown_options(given: Mapping[str, Any], where: str, known: tuple[str, ...]) -> None:
    for option in given:
        if option == "open":
            raise ValueError(f"{where}: 'open' is not to be set: a pool opens at its first use")
        if option not in known:
            raise TypeError(f"{where}: {unknown(option, known)}")
