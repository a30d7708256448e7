"""Settings of other pools for Django that have no effect here, and the equivalent of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings

__all__ = ["of_alias", "of_project"]

# What each of their options is called here; None: it is always so, or there is no such thing.
_DJANGO_DB_CONNECTION_POOL = {
    "POOL_SIZE": "max_size",
    "MAX_OVERFLOW": None,
    "TIMEOUT": "timeout",
    "RECYCLE": "max_lifetime",
    "PRE_PING": None,
    "ECHO": None,
    "USE_LIFO": None,
}
_DJANGO_POSTGRESPOOL = {"pool_size": "max_size", "max_overflow": None, "recycle": "max_lifetime"}
_GEVENTPOOL = {"MAX_CONNS": "max_size", "REUSE_CONNS": None}


def of_alias(alias: str, database: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a text and a hint for each leftover in one entry of DATABASES."""
    given = database.get("POOL_OPTIONS")
    if isinstance(given, Mapping):
        ours = _ours(given, _DJANGO_DB_CONNECTION_POOL)
        if "POOL_SIZE" in given and "MAX_OVERFLOW" in given:
            ours["max_size"] = _sum(given["POOL_SIZE"], given["MAX_OVERFLOW"])
        yield "POOL_OPTIONS is django-db-connection-pool's: no effect here.", _hint(ours)
    left = {name: v for name, v in database["OPTIONS"].items() if name in _GEVENTPOOL}
    if left:
        ours = _ours(left, _GEVENTPOOL)
        yield f"{', '.join(left)} of django-db-geventpool: PostgreSQL refuses them.", _hint(ours)


def of_project() -> Iterator[tuple[str, str]]:
    """Yield a text and a hint for each leftover at the top level of the settings."""
    for name in ("DATABASE_POOL_ARGS", "DATABASE_POOL_CLASS"):
        given = getattr(settings, name, None)
        if given is not None:
            ours = _ours(given, _DJANGO_POSTGRESPOOL) if isinstance(given, Mapping) else {}
            yield f"{name} is django-postgrespool's: no effect here.", _hint(ours)


def _ours(given: Mapping[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    found = {names.get(name): value for name, value in given.items()}
    return {name: value for name, value in found.items() if name and value is not None}


def _sum(size: Any, overflow: Any) -> Any:
    return size + overflow if isinstance(size, int) and isinstance(overflow, int) else size


def _hint(ours: Mapping[str, Any]) -> str:
    if not ours:
        return "Remove it."
    return f'Replace it by "OPTIONS": {{"pool": {dict(ours)!r}}}.'
