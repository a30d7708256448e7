"""The Django site. Whoever imports this has not configured Django before, or does not call app."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from psycopg2.extensions import parse_dsn

from tests.health.golden import HOST, PATIENT, TOKEN
from tests.health.situations import OPTIONS, settled

__all__ = ["GUARDED", "app", "database", "login_required", "urlpatterns"]

_for_good = ExitStack()
atexit.register(_for_good.close)  # before the pools', which were registered first

GUARDED: dict[str, Any] = {
    "ALLOWED_HOSTS": [HOST],
    "DBPOOL_HEALTH_TOKEN": TOKEN,
    **PATIENT,
    "SECURE_SSL_REDIRECT": True,
    "MIDDLEWARE": [
        "dbpool_django.middleware.HealthMiddleware",
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        f"{__name__}.login_required",
    ],
    "ROOT_URLCONF": __name__,
}


def login_required(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let nobody in without a login."""
    from asgiref.sync import iscoroutinefunction
    from django.http import HttpResponse

    async def guard_async(request: Any) -> Any:
        known = "Authorization" in request.headers
        return await get_response(request) if known else HttpResponse(status=401)

    def guard(request: Any) -> Any:
        known = "Authorization" in request.headers
        return get_response(request) if known else HttpResponse(status=401)

    return guard_async if iscoroutinefunction(get_response) else guard


# Were it not, Django would run all middleware around it as synchronous code, too.
login_required.async_capable = True  # type: ignore[attr-defined]


def home(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse("home")


def _routes() -> list[Any]:
    from django.urls import include, path

    return [path("", home), path("routed/", include("dbpool_django.urls"))]


urlpatterns = _routes()


def database(url: str) -> dict[str, Any]:
    """Return the entry of DATABASES for a URL."""
    given = parse_dsn(url)
    return {
        "ENGINE": "dbpool_django.backends.postgresql",
        "NAME": given.get("dbname", ""),
        "USER": given.get("user", ""),
        "PASSWORD": given.get("password", ""),
        "HOST": given.get("host", ""),
        "PORT": given.get("port", ""),
        "OPTIONS": {"pool": OPTIONS},
    }


def app() -> Any:
    """Return the WSGI application that the environment asks for."""
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    settings.configure(DATABASES={"default": database(os.environ["GOLDEN_URL"])}, **GUARDED)
    django.setup()
    from dbpool_django.pools import all_pools

    _for_good.enter_context(settled(os.environ["GOLDEN_SITUATION"], all_pools()["default"]))
    return get_wsgi_application()
