"""Which parts of Django's suite concern a database backend."""

from __future__ import annotations

__all__ = ["ALL", "TELLING"]

# The most telling first: a defect in the backend shows in these.
TELLING = (
    "backends",
    "transactions",
    "transaction_hooks",
    "db_utils",
    "async",
    "asgi",
    "handlers",
    "servers",
    "test_utils",
    "delete",
    "select_for_update",
    "timezones",
    "postgres_tests",
)

ALL = (
    *TELLING,
    "signals",
    "view_tests",
    "wsgi",
    "test_client",
    "test_client_regress",
    "test_runner",
    "user_commands",
    "check_framework",
    "dbshell",
    "multiple_database",
    "bulk_create",
    "get_or_create",
    "constraints",
    "force_insert_update",
    "context_processors",
    "cache",
    "sessions_tests",
    "raw_query",
    "basic",
    "fixtures",
    "fixtures_regress",
    "introspection",
    "inspectdb",
    "migrate_signals",
    "migrations",
    "schema",
)
