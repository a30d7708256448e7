"""django-postgres-extra, whose backend takes another one as its base."""

from __future__ import annotations

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database, by_test_client, hold

pytestmark = pytest.mark.package(
    "django-postgres-extra",
    to_set="ENGINE `psqlextra.backend`, "
    '`POSTGRES_EXTRA_DB_BACKEND_BASE = "dbpool_django.backends.postgresql"`',
)


def test_upserts_work_and_every_promise_holds(field: Database) -> None:
    django_site.configure(
        field.address("django"),
        DATABASE={"ENGINE": "psqlextra.backend"},
        POSTGRES_EXTRA_DB_BACKEND_BASE="dbpool_django.backends.postgresql",
        INSTALLED_APPS=["django.contrib.postgres", "psqlextra"],
    )
    from django.core.wsgi import get_wsgi_application
    from django.db import connection, models
    from psqlextra.models import PostgresModel
    from werkzeug.test import Client

    hold(by_test_client(Client(get_wsgi_application())), field)

    class Counter(PostgresModel):  # type: ignore[misc]
        name = models.CharField(max_length=20, unique=True)
        value = models.IntegerField()

        class Meta:
            app_label = "psqlextra"

    with connection.schema_editor() as editor:
        editor.create_model(Counter)
    for value in (1, 2):
        Counter.objects.on_conflict(["name"], _update()).insert(name="a", value=value)
    assert list(Counter.objects.values_list("name", "value")) == [("a", 2)]
    connection.close()
    from dbpool_django.pools import all_pools

    assert all_pools()["default"].get_stats()["requests_num"] > 0


def _update() -> object:
    from psqlextra.query import ConflictAction

    return ConflictAction.UPDATE
