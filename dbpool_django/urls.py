"""`path("healthz/", include("dbpool_django.urls"))`: the health endpoint as routes.

For those who want it in their URLconf. The project's own middleware runs before a route, so the
promise that no redirect, host check or login hook ever answers is the middleware's alone
(`dbpool_django.middleware.HealthMiddleware`).
"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from .middleware import health_check, health_response

__all__ = ["health", "urlpatterns"]

app_name = "dbpool"


@csrf_exempt
def health(request: HttpRequest, pool: str = "") -> HttpResponse:
    """Answer for one pool, or for all of them; where that is, the URLconf decides."""
    return health_response(health_check(), request, pool)


urlpatterns = [
    path("db", health, name="health"),
    path("db/", health),
    path("db/<str:pool>", health, name="health-pool"),
    path("db/<str:pool>/", health),
]
