"""Packages that go by the name of an ENGINE, and the setting that tells them ours.

They do not look at what a backend is: one whose name they do not know is none of theirs, and they
do something else without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

__all__ = ["unknown_to"]


def unknown_to(alias: str, engine: str) -> Iterator[tuple[str, str]]:
    """Yield a text and a hint for each installed package that does not know a pooled ENGINE."""
    if not apps.apps_ready:
        return
    for app, (does, knows, hint) in _PACKAGES.items():
        if apps.is_installed(app) and not knows(alias, engine):
            text = f"{app} goes by the ENGINE's name, and does not know {engine!r}: {does}."
            yield text, hint(engine)


def _kind(engine: str) -> str:
    for kind in ("postgis", "sqlite3"):
        if kind in engine:
            return kind
    return "postgresql"


def _setting(name: str) -> Any:
    return getattr(settings, name, None) or ()


def _listed(path: str) -> Any:
    """Return what a package lists itself, settings included; nothing where it has moved."""
    try:
        return import_string(path)
    except ImportError:
        return ()


# django-dbbackup

_CONNECTORS = {
    "postgresql": "dbbackup.db.postgresql.PgDumpBinaryConnector",
    "postgis": "dbbackup.db.postgresql.PgDumpGisConnector",
    "sqlite3": "dbbackup.db.sqlite.SqliteBackupConnector",
}


def _dbbackup_knows(alias: str, engine: str) -> bool:
    own = dict(_setting("DBBACKUP_CONNECTORS")).get(alias, {})
    mapped = (_setting("DBBACKUP_CONNECTOR_MAPPING"), _listed("dbbackup.db.base.CONNECTOR_MAPPING"))
    return "CONNECTOR" in own or any(engine in each for each in mapped)


def _dbbackup_hint(engine: str) -> str:
    return f"Add DBBACKUP_CONNECTOR_MAPPING = {{{engine!r}: {_CONNECTORS[_kind(engine)]!r}}}."


# django-cachalot


def _cachalot_knows(alias: str, engine: str) -> bool:
    chosen = getattr(settings, "CACHALOT_DATABASES", "supported_only")
    return (
        not getattr(settings, "CACHALOT_ENABLED", True)
        or bool(_setting("CACHALOT_USE_UNSUPPORTED_DATABASE"))
        or engine in _setting("CACHALOT_ADDITIONAL_SUPPORTED_DATABASES")
        or engine in _listed("cachalot.settings.SUPPORTED_DATABASE_ENGINES")
        or not isinstance(chosen, str)  # then these are named by their aliases, or left out
    )


def _cachalot_hint(engine: str) -> str:
    return f"Add CACHALOT_ADDITIONAL_SUPPORTED_DATABASES = {{{engine!r}}}."


# django-extensions


def _extensions_setting(engine: str) -> str:
    return "SQLITE_ENGINES" if _kind(engine) == "sqlite3" else "POSTGRESQL_ENGINES"


def _extensions_knows(alias: str, engine: str) -> bool:
    name = _extensions_setting(engine)
    return engine in _setting(f"DJANGO_EXTENSIONS_RESET_DB_{name}") or engine in _listed(
        f"django_extensions.settings.{name}"
    )


def _extensions_hint(engine: str) -> str:
    name = f"DJANGO_EXTENSIONS_RESET_DB_{_extensions_setting(engine)}"
    return f"Add {name} = [{engine!r}] (in place of its own list)."


_PACKAGES: Mapping[str, tuple[str, Callable[[str, str], bool], Callable[[str], str]]] = {
    "dbbackup": (
        "its backups are JSON of the models, not the database's own dump",
        _dbbackup_knows,
        _dbbackup_hint,
    ),
    "cachalot": ("it caches nothing", _cachalot_knows, _cachalot_hint),
    "django_extensions": (
        "its reset_db, sqlcreate and sqldsn refuse it",
        _extensions_knows,
        _extensions_hint,
    ),
}
