"""django-pgtrigger with django-pghistory: triggers, and a context that statements carry."""

from __future__ import annotations

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database

pytestmark = pytest.mark.package("django-pgtrigger", "django-pghistory", to_set="nothing")


def test_events_carry_the_context_of_their_request_and_of_no_other(field: Database) -> None:
    apps = ["django.contrib.contenttypes", "pgtrigger", "pghistory", "tests.ecosystem.history"]
    django_site.configure(field.address("django"), INSTALLED_APPS=apps)
    import pghistory
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    call_command("migrate", "history", run_syncdb=True, verbosity=0)
    from tests.ecosystem.history.models import Tracked, TrackedEvent

    with connection.schema_editor() as editor:
        for model in (Tracked, TrackedEvent):
            if model._meta.db_table not in connection.introspection.table_names():
                editor.create_model(model)
    call_command("pgtrigger", "install", verbosity=0)
    with pghistory.context(user="ada"):
        Tracked.objects.create(text="by ada")
    connection.close()  # the next request: on the same session
    Tracked.objects.create(text="by nobody")
    connection.close()
    found = TrackedEvent.objects.order_by("pgh_id").values_list(
        "text", "pgh_context__metadata__user"
    )
    assert list(found) == [("by ada", "ada"), ("by nobody", None)]
