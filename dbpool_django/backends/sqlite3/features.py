"""What differs for Django's own test suite."""

from __future__ import annotations

from django.db.backends.sqlite3 import features
from django.utils.functional import cached_property

__all__ = ["DatabaseFeatures"]

_DEBUG_SQL = "test_runner.test_debug_sql.TestDebugSQL"
_SKIPS = {
    "They need a test database in memory; Django's own backend fails them with one in a file.": {
        f"{_DEBUG_SQL}.test_output_normal",
        f"{_DEBUG_SQL}.test_output_verbose",
        f"{_DEBUG_SQL}.test_setupclass_exception",
    },
}


class DatabaseFeatures(features.DatabaseFeatures):
    """Django's, without tests of its own suite that need a database in memory."""

    @cached_property
    def django_test_skips(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return tests of Django's own suite that are left out, by reason."""
        skips: dict[str, set[str]] = super().django_test_skips
        name = self.connection.settings_dict["NAME"]
        in_memory = self.connection.creation.is_in_memory_db(name)
        return skips if in_memory else {**skips, **_SKIPS}
