"""django-tenants: a schema for each tenant, chosen by the request's host."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database

pytestmark = pytest.mark.package(
    "django-tenants",
    to_set="ENGINE `django_tenants.postgresql_backend`, "
    '`ORIGINAL_BACKEND = "dbpool_django.backends.postgresql"`',
)

TENANTS = 12
SHARED = ["django_tenants", "django.contrib.contenttypes", "tests.ecosystem.tenancy"]


@pytest.fixture
def ask(field: Database) -> Any:
    """A site of tenants: `ask("t3", "/tenant")` returns which schema the view works in."""
    django_site.configure(
        field.address("django"),
        POOL={"max_size": 4, "timeout": 20.0},
        DATABASE={"ENGINE": "django_tenants.postgresql_backend"},
        ORIGINAL_BACKEND="dbpool_django.backends.postgresql",
        DATABASE_ROUTERS=["django_tenants.routers.TenantSyncRouter"],
        INSTALLED_APPS=[*SHARED, "tests.ecosystem.shelf"],
        SHARED_APPS=SHARED,
        TENANT_APPS=["tests.ecosystem.shelf"],
        TENANT_MODEL="tenancy.Client",
        TENANT_DOMAIN_MODEL="tenancy.Domain",
        TENANT_LIMIT_SET_CALLS=True,
        MIDDLEWARE=["django_tenants.middleware.main.TenantMainMiddleware"],
        ROOT_URLCONF="tests.ecosystem.tenancy.urls",
    )
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from werkzeug.test import Client as WebClient

    call_command("migrate_schemas", "--shared", verbosity=0)
    from tests.ecosystem.tenancy.models import Client, Domain

    for n in range(TENANTS):
        tenant = Client.objects.create(schema_name=f"t{n}", name=f"t{n}")
        Domain.objects.create(domain=f"t{n}.test", tenant=tenant, is_primary=True)
    app = get_wsgi_application()

    def ask(tenant: str, path: str) -> str:
        answer = WebClient(app).get(path, base_url=f"http://{tenant}.test/")
        assert answer.status_code == 200, answer.get_data(as_text=True)
        body: str = answer.get_data(as_text=True)
        answer.close()
        return body

    return ask


def test_a_whole_site_in_threads_and_forks_sees_its_own_schema_and_shares_one_pool(
    ask: Any, field: Database
) -> None:
    def wrong(n: int) -> bool:
        return ask(f"t{n % TENANTS}", "/tenant") != f"t{n % TENANTS}"

    with ThreadPoolExecutor(8) as executor:
        assert sum(executor.map(wrong, range(300))) == 0
    from django_tenants.utils import schema_context

    from tests.ecosystem.shelf.models import Note

    def task(schema: str) -> None:
        with schema_context(schema):
            assert Note.objects.count() == 0

    for n in range(TENANTS):  # as a task queue does, with a thread for each task
        thread = threading.Thread(target=task, args=(f"t{n}",))
        thread.start()
        thread.join()
    assert field.sessions() <= 4 + 1  # the pool's, and that of migrate_schemas

    from django.db import connection

    connection.set_schema("t1")
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        assert cursor.fetchone() == ("t1",)
    pid = os.fork()
    if not pid:  # the wrapper remembers that t1 is set, on a connection of its parent's
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            os._exit(cursor.fetchone() != ("t1",))
    assert os.waitpid(pid, 0)[1] == 0
