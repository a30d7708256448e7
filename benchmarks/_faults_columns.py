"""Django's database backends to compare, as settings of one alias each."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

__all__ = ["COLUMNS", "TIMEOUT", "Column"]

TIMEOUT = 3  # seconds that a request waits for a connection, in every pool


@dataclass(frozen=True)
class Column:
    """A backend on one driver."""

    key: str
    title: str
    driver: str  # psycopg2 or psycopg, as Django names its module
    engine: str
    package: str | None = None  # beside Django, this project and the driver
    pool: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.engine.startswith("dbpool_django.")

    @property
    def missing(self) -> str | None:
        """Return the package without which it cannot be measured here, or None."""
        for package in (self.driver, self.package):
            if package is not None and importlib.util.find_spec(package) is None:
                return package
        return None

    def settings(self, size: int, extra: dict[str, Any]) -> dict[str, Any]:
        """Return what stands in DATABASES beside the address.

        Arguments: `size`, how many connections at most; `extra`, more options of our own pool.
        """
        found: dict[str, Any] = {"ENGINE": self.engine}
        if self.is_ours:
            found["OPTIONS"] = {"pool": {"max_size": size, "timeout": TIMEOUT, **extra}}
        elif self.package == "psycopg_pool":
            pool = {"min_size": 1, "max_size": size, "timeout": TIMEOUT}
            found["OPTIONS"] = {"pool": pool}
        elif self.package == "dj_db_conn_pool":
            found["POOL_OPTIONS"] = {"POOL_SIZE": size, "MAX_OVERFLOW": 0, "TIMEOUT": TIMEOUT}
        else:
            found["CONN_MAX_AGE"] = None
        return found


_OURS = "dbpool_django.backends.postgresql"
_DJANGOS = "django.db.backends.postgresql"
_DDCP = "dj_db_conn_pool.backends.postgresql"

COLUMNS = {
    column.key: column
    for column in (
        Column("dbpool2", "dbpool\npsycopg2", "psycopg2", _OURS),
        Column("dbpool3", "dbpool\npsycopg 3", "psycopg", _OURS),
        Column("persistent", "CONN_MAX_AGE\n=None, psycopg2", "psycopg2", _DJANGOS),
        Column("django", "Django's pool\npsycopg 3", "psycopg", _DJANGOS, "psycopg_pool"),
        Column("ddcp2", "d-d-c-pool\npsycopg2", "psycopg2", _DDCP, "dj_db_conn_pool"),
        Column("ddcp3", "d-d-c-pool\npsycopg 3", "psycopg", _DDCP, "dj_db_conn_pool"),
    )
}
