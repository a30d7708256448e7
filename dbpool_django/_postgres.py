"""What the PostgreSQL backends have in common: Django's session state, once per connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.psycopg_any import IsolationLevel, is_psycopg3

from dbpool import ConnectionPool, drivers
from dbpool.adapters import Watched, not_possible, shown

from . import _settings
from ._cursors import (
    NoticingCursor,
    NoticingDebugCursor,
    ReleasingCursor,
    ReleasingDebugCursor,
)
from ._lean import LeanCursor
from ._loan import Supplier
from ._postgres_opener import PostgresOpener
from ._wrapper import PooledWrapper

if is_psycopg3:
    from psycopg import ProgrammingError as _ProgrammingError
    from psycopg.conninfo import make_conninfo as _make_conninfo
else:
    from psycopg2 import ProgrammingError as _ProgrammingError
    from psycopg2.extensions import make_dsn as _make_conninfo

__all__ = ["PooledPostgres"]

# Parameters that are not libpq's.
_FOR_THE_DRIVER = frozenset(
    (
        "async",
        "autocommit",
        "connection_factory",
        "context",
        "cursor_factory",
        "prepare_threshold",
        "row_factory",
    )
)


# What libpq's options are in an entry of DATABASES; the others stand in its OPTIONS.
_SETTINGS = {
    "dbname": "NAME",
    "database": "NAME",
    "user": "USER",
    "password": "PASSWORD",
    "host": "HOST",
    "port": "PORT",
}


class PooledPostgres(PooledWrapper):
    """Goes before Django's PostgreSQL wrapper, or one made from it."""

    _dbpool_reset = "auto"

    def _dbpool_make(self) -> Supplier:
        options = _settings.pool_options(self.settings_dict, self.alias)
        _check_parameters(self.get_connection_params(), self.alias)
        driver, _ = drivers.choose(None, "psycopg" if is_psycopg3 else "psycopg2")
        # A reset by marks is the adapter's: the core has nothing to do at each return.
        resets = options.get("reset", self._dbpool_reset) == "auto"
        configure = options.pop("configure", None)
        opener = PostgresOpener(driver, self, configure, notices=resets)
        if resets:
            options["reset"] = None
        releases = options.pop("release", "request") == "transaction"
        level = self._dbpool_isolation_level()
        pool = ConnectionPool(driver=opener, configure=opener.configure, **options)
        return Supplier(
            pool,
            opener,
            resets=resets,
            releases=releases,
            is_plain=self._dbpool_is_plain,
            isolation_level=level,
        )

    def make_cursor(self, cursor: Any) -> Any:
        """Return Django's cursor wrapper, one that does what `reset` and `release` ask for."""
        loan = self._dbpool_loan
        if loan is not None:
            if loan.supplier.releases:
                return ReleasingCursor(cursor, self)
            if loan.supplier.resets and not isinstance(cursor, Watched):
                return NoticingCursor(cursor, self)
        return LeanCursor(cursor, self)

    def make_debug_cursor(self, cursor: Any) -> Any:
        """Return the same for DEBUG."""
        loan = self._dbpool_loan
        if loan is not None and loan.supplier.releases:
            return ReleasingDebugCursor(cursor, self)
        if loan is not None and loan.supplier.resets and not isinstance(cursor, Watched):
            return NoticingDebugCursor(cursor, self)
        return super().make_debug_cursor(cursor)

    def _dbpool_isolation_level(self) -> Any:
        # As Django's own does, which makes the connection at the same time.
        try:
            wanted = self.settings_dict["OPTIONS"]["isolation_level"]
        except KeyError:
            return IsolationLevel.READ_COMMITTED
        try:
            return IsolationLevel(wanted)
        except ValueError:
            pass
        raise ImproperlyConfigured(
            f"Invalid transaction isolation level {shown(wanted)} specified. Use one of the "
            "psycopg.IsolationLevel values."
        )

    def _dbpool_closed_error(self) -> Exception:
        if is_psycopg3:
            return self.Database.OperationalError("the connection is closed")  # type: ignore[attr-defined,no-any-return]
        return super()._dbpool_closed_error()

    def init_connection_state(self) -> None:
        """Check the server's version once; time zone and role were set when it was opened."""
        if self._dbpool_loan is None:
            super().init_connection_state()
            return
        BaseDatabaseWrapper.init_connection_state(self)
        # No round trip, unless somebody's SET TIME ZONE has stayed behind.
        if (
            not self._dbpool_loan.supplier.resets
            and self._configure_timezone(self.connection)
            and not self.get_autocommit()
        ):
            self.connection.commit()

    def ensure_timezone(self) -> bool:
        """Give the connection in hand the zone of the settings; the pool's key has it too."""
        if self.connection is None:
            return False
        return bool(self._configure_timezone(self.connection))

    def _configure_timezone(self, connection: Any) -> Any:
        return super()._configure_timezone(connection)  # type: ignore[misc]


def _check_parameters(params: Mapping[str, Any], alias: str) -> None:
    """Tell the caller at once what no number of attempts to connect would mend.

    Raises ImproperlyConfigured for an unknown option or an impossible port, quoting no value.
    """
    given = {name: value for name, value in params.items() if name not in _FOR_THE_DRIVER}
    if wrong := not_possible(given):
        key = f'["{_SETTINGS[wrong]}"]' if wrong in _SETTINGS else f'["OPTIONS"]["{wrong}"]'
        raise ImproperlyConfigured(
            f"DATABASES[{alias!r}]{key} is not possible (it is not shown here, since it may hold a "
            "password): HOST takes names or addresses, PORT a number from 1 to 65535, hostaddr "
            "addresses, and none a NUL or what UTF-8 cannot hold"
        )
    if "autocommit" in params and not is_psycopg3:
        raise ImproperlyConfigured(
            f'DATABASES[{alias!r}]["OPTIONS"]["autocommit"] is no option of psycopg2\'s: Django\'s '
            'setting is "AUTOCOMMIT", beside OPTIONS, and True unless it is given'
        )
    try:
        _make_conninfo(**given)
    except _ProgrammingError as error:
        text = str(error).strip().removeprefix("invalid dsn: ")  # it names the option only
        raise ImproperlyConfigured(f'DATABASES[{alias!r}]["OPTIONS"]: {text}') from None
