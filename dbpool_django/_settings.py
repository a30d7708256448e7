"""From Django's settings to a pool: whether there is one, its options, and what tells two apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from operator import itemgetter
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from dbpool import options
from dbpool.adapters import is_word, shown

__all__ = [
    "DEFAULTS",
    "IGNORED",
    "OWN",
    "connected_by",
    "copied",
    "frozen",
    "others",
    "pool_options",
    "wants_pool",
]

# A look at the socket costs about 1 µs and spares a request the error of a dead connection.
DEFAULTS: dict[str, Any] = {"validate_after": 0.0}

# The adapter's own options, and the values that they take; and reset="auto".
OWN = {"release": ("request", "transaction")}

# psycopg_pool's, for settings that were written for Django's own pool: a pool here opens with the
# first request that queries, and connects in threads that live as long as a connect.
IGNORED = frozenset(("num_workers", "open"))

# What Django has in an entry of DATABASES.
_DJANGOS = frozenset(
    (
        *("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS", "TIME_ZONE", "TEST"),
        *("CONN_MAX_AGE", "CONN_HEALTH_CHECKS", "ATOMIC_REQUESTS", "AUTOCOMMIT"),
        "DISABLE_SERVER_SIDE_CURSORS",
    )
)

# What psycopg_pool's options, and those of other pools, are here.
_ELSEWHERE = {
    **options.ELSEWHERE,
    "conninfo": "NAME, USER, HOST and the like, beside OPTIONS",
    "kwargs": 'what stands in OPTIONS beside "pool"',
    "connection_class": "what get_new_connection() of a wrapper class of your own makes",
    "close_returns": "what close() of Django's own connection does",
}

_WORDS = {"reset": ("auto", "rollback", "discard")}  # strings that are no dotted paths
_CALLBACKS = ("check", "configure", "reconnect_failed", "reset")


def wants_pool(settings: Mapping[str, Any]) -> bool:
    """Return whether connections of these settings are pooled.

    `OPTIONS["pool"]` says no by False or None only, so that the ENGINE line alone is a yes.
    """
    given = settings["OPTIONS"].get("pool", True)
    return given is not None and given is not False


# What Django connects by: runs at each checkout, so no Python of ours.
connected_by = itemgetter("NAME", "USER", "PASSWORD", "HOST", "PORT", "CONN_MAX_AGE", "OPTIONS")


def others(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Django has not: a class of the project's own may connect by these."""
    return {name: value for name, value in settings.items() if name not in _DJANGOS}


def pool_options(settings: Mapping[str, Any], alias: str) -> dict[str, Any]:
    """Return the options of the pool, and the adapter's own, for one alias of DATABASES.

    Raises ImproperlyConfigured, naming the alias and the option, for one that is unknown or wrong.
    """
    given = settings["OPTIONS"].get("pool", True)
    if given is True:
        given = {}
    where = f'DATABASES[{alias!r}]["OPTIONS"]["pool"]'
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(
            f"{where} is {shown(given)}: it takes True, False, None or a dict of options"
        )
    merged = {**DEFAULTS, "name": alias}
    # How long a connection may live is what CONN_MAX_AGE says; nothing is pinned to a thread.
    if settings["CONN_MAX_AGE"]:
        merged["max_lifetime"] = settings["CONN_MAX_AGE"]
    merged.update({name: value for name, value in given.items() if name not in IGNORED})
    for name in _CALLBACKS:
        value = merged.get(name)
        if isinstance(value, str) and value not in _WORDS.get(name, ()):
            merged[name] = _imported(value, f"{where}[{name!r}]")
    try:
        _check(merged)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{where}: {error}") from None
    return merged


def _check(merged: Mapping[str, Any]) -> None:
    core = {name: value for name, value in merged.items() if name not in OWN}
    if core.get("reset") == "auto":
        del core["reset"]
    for name in core:
        if name not in options.OPTIONS or name in _ELSEWHERE:
            raise TypeError(options.unknown(name, (*options.OPTIONS, *OWN), _ELSEWHERE))
    for name, words in OWN.items():
        if name in merged and merged[name] not in words:
            raise ValueError(
                f"{name}={shown(merged[name])} is not possible: it takes {' or '.join(words)}"
            )
    options.checked(core)


def _imported(path: str, where: str) -> Any:
    if not is_word(path):  # nothing to import, but perhaps a URL or a password
        raise ImproperlyConfigured(f"{where} is {shown(path)}: it takes a callable, or its path")
    try:
        return import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{where}: {path!r} cannot be imported ({error})") from error


def copied(value: Any) -> Any:
    """Return a copy of nested dicts and lists, with whatever else they hold itself."""
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, list):
        return [copied(part) for part in value]
    if type(value) is tuple:
        return tuple(map(copied, value))
    return value


def frozen(value: Any) -> Hashable:
    """Return something hashable that is equal for equal settings."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), frozen(part)) for name, part in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(frozen(part) for part in value)
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value  # type: ignore[no-any-return]
