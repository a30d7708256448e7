"""Test databases: one that is about to be copied or dropped must have no idle connection on it."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.creation import BaseDatabaseCreation

from . import pools

__all__ = ["PooledCreation"]


class PooledCreation(BaseDatabaseCreation):  # its stubs lack the private methods used here
    """What a pooled backend puts before Django's own creation class.

    Pools are closed by the name of the database: copies of a wrapper under another alias, and
    aliases that share a pool, are on it as well.
    """

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        # It drops what a run that was killed has left, and asks nobody else on this server to go.
        self._close_pools(self._get_test_db_name())  # type: ignore[attr-defined]
        created: str = super()._create_test_db(  # type: ignore[misc]
            verbosity, autoclobber, keepdb
        )
        return created

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        self.connection.close()
        self._close_pools(self.connection.settings_dict["NAME"])
        self._close_pools(self.get_test_db_clone_settings(suffix)["NAME"])
        super()._clone_test_db(suffix, verbosity, keepdb)  # type: ignore[misc]

    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> None:
        self._close_pools(test_database_name)
        super()._destroy_test_db(test_database_name, verbosity)  # type: ignore[misc]

    def setup_worker_connection(self, _worker_id: Any) -> None:
        """Turn a worker of the parallel test runner to its own database."""
        self.connection.close()
        self._close_pools(self.connection.settings_dict["NAME"])
        super().setup_worker_connection(_worker_id)

    def _close_pools(self, database: str | None) -> None:
        pools.close_database(database)
        self.connection.close_pool()  # type: ignore[attr-defined]
