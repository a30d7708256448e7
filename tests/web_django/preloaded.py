"""The WSGI application of test_gunicorn.py: it has queried before the workers are forked."""

from __future__ import annotations

import json
import os
from typing import Any

import django
from django.conf import settings

MASTER = os.getpid()
MAX_SIZE = 2

settings.configure(
    DATABASES={"default": json.loads(os.environ["DBPOOL_TEST_DATABASE"])},
    INSTALLED_APPS=["tests.web_django.shelf"],
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="only for tests",
    USE_TZ=True,
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402


def backend(wait: float = 0.0, echo: str = "") -> tuple[int, str]:
    """Return the number of the session that answers, and what it was sent."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), %s, pg_sleep(%s)", [echo, wait])
        row = cursor.fetchone()
        return int(row[0]), str(row[1])


def ask(request: HttpRequest) -> JsonResponse:
    session, echo = backend(0.002, request.GET["echo"])
    return JsonResponse({"process": os.getpid(), "session": session, "echo": echo})


def fail(request: HttpRequest) -> HttpResponse:
    backend()
    raise RuntimeError("in a view")


urlpatterns: list[Any] = [path("ask", ask), path("fail", fail)]
application = get_wsgi_application()

# With the connection still in hand when gunicorn forks, and one more that is idle.
_idle = connection.copy()
_idle.ensure_connection()
IN_MASTER = backend()[0]
_idle.close()
