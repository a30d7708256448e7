"""Django packages that pass, with nothing to set: no mechanism of the pool's is in play."""

from __future__ import annotations

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database, by_test_client, hold

pytestmark = pytest.mark.package(
    "django-debug-toolbar", "django-silk", "pgvector", to_set="nothing"
)


def test_a_site_with_all_of_them_keeps_every_promise(field: Database) -> None:
    django_site.configure(
        field.address("django"),
        DEBUG=True,
        INTERNAL_IPS=["127.0.0.1"],
        STATIC_URL="static/",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
            "django.contrib.staticfiles",
            "debug_toolbar",
            "silk",
        ],
        MIDDLEWARE=[
            "dbpool_django.middleware.HealthMiddleware",
            "dbpool_django.middleware.UnavailableMiddleware",
            "debug_toolbar.middleware.DebugToolbarMiddleware",
            "silk.middleware.SilkyMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
            }
        ],
        ROOT_URLCONF="tests.ecosystem.django_debug_urls",
    )
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from pgvector.django import VectorField
    from werkzeug.test import Client

    call_command("migrate", verbosity=0)
    hold(by_test_client(Client(get_wsgi_application())), field)
    assert int(field.sql("SELECT count(*) FROM silk_request")) > 0
    assert VectorField(dimensions=3).get_prep_value([1, 2, 3]) is not None
