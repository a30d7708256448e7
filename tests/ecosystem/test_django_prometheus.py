"""django-prometheus: its backend's cursors count statements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.db import Error

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database, by_test_client, hold

pytestmark = pytest.mark.package(
    "django-prometheus", to_set="a backend class with both bases, see docs/django.md"
)


ENGINE = """
from django_prometheus.db.backends.postgresql.base import DatabaseWrapper as Counting
from dbpool_django.backends.postgresql.base import DatabaseWrapper as Pooled

class DatabaseWrapper(Pooled, Counting):  # as docs/django.md has it
    pass
"""


def test_statements_are_counted_cursors_end_with_their_request_and_every_promise_holds(
    field: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "field_engine").mkdir()
    (tmp_path / "field_engine" / "__init__.py").touch()
    (tmp_path / "field_engine" / "base.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    django_site.configure(
        field.address("django"),
        DATABASE={"ENGINE": "field_engine"},
        INSTALLED_APPS=["django_prometheus"],
    )
    from django.core.wsgi import get_wsgi_application
    from django.db import connection
    from django_prometheus.db import execute_total
    from werkzeug.test import Client

    hold(by_test_client(Client(get_wsgi_application())), field)
    assert execute_total.labels("default", connection.vendor)._value.get() > 0

    kept: Any = connection.cursor()
    kept.execute("SELECT 1")
    connection.close()  # its request has ended
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE secret AS SELECT 'of the next' AS word")
        with pytest.raises(Error):
            kept.execute("SELECT word FROM secret")
