"""django-cachalot caches the answers of databases whose ENGINE it knows."""

from __future__ import annotations

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database

ENGINE = "dbpool_django.backends.postgresql"
pytestmark = pytest.mark.package(
    "django-cachalot", to_set=f'`CACHALOT_ADDITIONAL_SUPPORTED_DATABASES = {{"{ENGINE}"}}`'
)


def test_with_the_setting_answers_are_cached_and_writes_make_them_stale(field: Database) -> None:
    django_site.configure(
        field.address("django"),
        INSTALLED_APPS=["cachalot", "tests.ecosystem.shelf"],
        CACHALOT_ADDITIONAL_SUPPORTED_DATABASES={ENGINE},
    )
    from django.core.management import call_command
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from tests.ecosystem.shelf.models import Note

    django_site.check_names_it_only_where_it_is_missing("CACHALOT_ADDITIONAL_SUPPORTED_DATABASES")
    call_command("migrate", verbosity=0)
    Note.objects.create(text="first")
    assert list(Note.objects.values_list("text", flat=True)) == ["first"]
    with CaptureQueriesContext(connection) as asked:
        assert list(Note.objects.values_list("text", flat=True)) == ["first"]
    assert len(asked) == 0
    connection.close()
    Note.objects.create(text="second")
    assert len(Note.objects.all()) == 2
