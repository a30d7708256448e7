"""What differs for Django's own test suite."""

from __future__ import annotations

from django.db.backends.postgresql import features
from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.utils.functional import cached_property

__all__ = ["DatabaseFeatures", "PooledFeatures"]

_HEALTH = "backends.base.test_base.ConnectionHealthChecksTests"
_POSTGRES = "backends.postgresql.tests.Tests"
_SKIPS = {
    "The connection goes back to the pool at the request's end, and is looked at by the pool.": {
        f"{_HEALTH}.test_health_checks_enabled",
        f"{_HEALTH}.test_health_checks_enabled_errors_occurred",
        f"{_HEALTH}.test_health_checks_disabled",
        f"{_HEALTH}.test_set_autocommit_health_checks_enabled",
    },
    "A pool on psycopg2 is what this backend is for.": {
        f"{_POSTGRES}.test_connect_pool_setting_ignored_for_psycopg2",
    },
}
if is_psycopg3:
    _SKIPS["The pool is not psycopg_pool's, and CONN_MAX_AGE is its connections' lifetime."] = {
        f"{_POSTGRES}.test_connect_pool",
        f"{_POSTGRES}.test_pooling_health_checks",
        f"{_POSTGRES}.test_pooling_not_support_persistent_connections",
    }


class PooledFeatures(features.DatabaseFeatures):
    """What differs wherever PostgreSQL's connections come from a pool."""

    @cached_property
    def django_test_skips(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return tests of Django's own suite that are left out, by reason."""
        return {**super().django_test_skips, **_SKIPS}


class DatabaseFeatures(PooledFeatures):
    """Django's, without the tests of its own suite that assert the contrary of a pool."""
