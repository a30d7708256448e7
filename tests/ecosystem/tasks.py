"""Tasks for the queues: the same work, whatever runs it. FIELD_URL says on what."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["MAX_SIZE", "set_up", "work"]

MAX_SIZE = 2


def set_up(**settings: Any) -> None:
    """Configure Django, as the module of a project's tasks does."""
    from django.conf import settings as configured

    if not configured.configured:
        from tests.ecosystem.django_site import configure

        pool = {"max_size": MAX_SIZE, "timeout": 20.0}
        configure(os.environ["FIELD_URL"], POOL=pool, **settings)


def work(n: int) -> int:
    """Insert a row, leave the session changed, and return what the server answers."""
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO field_row VALUES (%s)", [n])
        cursor.execute("SELECT current_setting('search_path'), %s", [n])
        path, echo = cursor.fetchone()
        assert (path, echo) == ('"$user", public', n), (path, echo)
    if n % 5 == 0:
        with connection.cursor() as cursor:
            cursor.execute("SET search_path = pg_catalog")
    return n
