"""SQLite files on a pool; a database in memory stays as Django has it."""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool import ConnectionPool, drivers
from dbpool.drivers.sqlite3 import end_cursors, tracking

from . import _settings
from ._loan import Supplier
from ._opener import Opener
from ._wrapper import PooledWrapper

__all__ = ["PooledSqlite", "SqliteOpener"]


class SqliteOpener(Opener):
    """Functions, PRAGMAs and init_command are Django's, once per connection."""

    def _given(self, wrapper: BaseDatabaseWrapper) -> dict[str, Any]:
        # A class of connections that a pool can see dropped, and whose cursors it can end.
        given = super()._given(wrapper)
        factory = tracking(given.get("factory", sqlite3.Connection))
        return {**given, "factory": factory}

    def _adopt(self, conn: Any) -> None:
        conn.isolation_level = None  # which is sqlite3's autocommit mode, as Django uses it
        name = self._settings["NAME"]
        is_uri = isinstance(name, str) and name.startswith("file:")
        conn._dbpool_opened = (str(name), {}, None, b"" if is_uri else os.fsencode(name))

    def discard_session(self, conn: Any) -> None:
        """Forget all session state: the connection opens its database anew, as Django does."""
        end_cursors(conn)
        conn.close()

        def reopen(*args: Any, **kwargs: Any) -> Any:
            conn.__init__(*args, **kwargs)
            return conn

        wrapper = self._detached()
        wrapper.get_new_connection({**wrapper.get_connection_params(), "factory": reopen})
        self._adopt(conn)


class PooledSqlite(PooledWrapper):
    """Goes before Django's SQLite wrapper."""

    def _dbpool_is_wanted(self) -> bool:
        return super()._dbpool_is_wanted() and not self.is_in_memory_db()  # type: ignore[attr-defined]

    def _dbpool_closed_error(self) -> Exception:
        return sqlite3.ProgrammingError("Cannot operate on a closed database.")

    def _dbpool_settle(self) -> None:
        self._dbpool_parameters()  # Django's keeps the transaction mode on the wrapper

    def _dbpool_make(self) -> Supplier:
        options = _settings.pool_options(self.settings_dict, self.alias)
        driver, _ = drivers.choose(None, "sqlite3")
        opener = SqliteOpener(driver, self, options.pop("configure", None))
        if options.get("reset") == "auto":
            options["reset"] = None  # what it looks for is PostgreSQL's
        options.pop("release", None)
        pool = ConnectionPool(driver=opener, configure=opener.configure, **options)
        return Supplier(pool, opener, is_plain=self._dbpool_is_plain)
