"""The ways to connect Django that bench_django compares: an entry of DATABASES each."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CONNECTIONS", "VARIANTS", "Variant"]

CONNECTIONS = 4

_DJANGO = "django.db.backends.postgresql"
_OURS = "dbpool_django.backends.postgresql"
_OTHER = "dj_db_conn_pool.backends.postgresql"


@dataclass(frozen=True)
class Variant:
    """One way; `pooled` if its threads share CONNECTIONS connections."""

    name: str
    driver: str  # what Django is to take: psycopg2 or psycopg
    changes: dict[str, Any] = field(default_factory=dict)  # in the entry of DATABASES
    options: dict[str, Any] = field(default_factory=dict)  # in its OPTIONS
    pooled: bool = True
    ours: bool = False
    needs: str = ""  # package that has to be installed besides the driver

    @property
    def absent(self) -> bool:
        """Whether it cannot run in this environment."""
        needed = (self.driver, self.needs)
        return any(name and importlib.util.find_spec(name) is None for name in needed)

    def database(self, where: dict[str, Any]) -> dict[str, Any]:
        """Return the entry of DATABASES for a server; `where` are libpq's parameters."""
        return {
            "ENGINE": _DJANGO,
            "NAME": where["dbname"],
            "USER": where["user"],
            "PASSWORD": where.get("password", ""),
            "HOST": str(where["host"]),
            "PORT": str(where["port"]),
            **self.changes,
            "OPTIONS": dict(self.options),
        }


def _both(name: str, **given: Any) -> list[Variant]:
    return [Variant(f"{name}, {driver}", driver, **given) for driver in ("psycopg2", "psycopg")]


_POOL = {"pool": {"min_size": CONNECTIONS, "max_size": CONNECTIONS, "timeout": 30}}

VARIANTS = [
    *_both("dbpool", changes={"ENGINE": _OURS}, options=_POOL, ours=True),
    *_both("CONN_MAX_AGE=None", changes={"CONN_MAX_AGE": None}, pooled=False),
    Variant("Django's pool, psycopg", "psycopg", options=_POOL, needs="psycopg_pool"),
    Variant(
        "Django's pool with health checks, psycopg",
        "psycopg",
        changes={"CONN_HEALTH_CHECKS": True},
        options=_POOL,
        needs="psycopg_pool",
    ),
    *_both(
        "django-db-connection-pool",
        changes={
            "ENGINE": _OTHER,
            "POOL_OPTIONS": {"POOL_SIZE": CONNECTIONS, "MAX_OVERFLOW": 0, "TIMEOUT": 30},
        },
        needs="dj_db_conn_pool",
    ),
    *_both("CONN_MAX_AGE=0", pooled=False),
]
