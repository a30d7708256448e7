"""`/healthz/db`, 503 where no connection is to be had, and connections given back early.

All go first in MIDDLEWARE, in this order.

The health check before anything else, so that nothing stands before it: ALLOWED_HOSTS
(CommonMiddleware), SECURE_SSL_REDIRECT, a login check, or a middleware that queries the database
would answer a load balancer otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from dbpool.adapters import after_fork
from dbpool.health import HealthCheck

from ._dispatch import GetResponse, Middleware
from ._release import ReleaseBeforeResponse
from ._unavailable import UnavailableMiddleware

if TYPE_CHECKING:
    from dbpool import ConnectionPool

__all__ = [
    "HealthMiddleware",
    "ReleaseBeforeResponse",
    "UnavailableMiddleware",
    "health_check",
    "health_response",
]


class HealthMiddleware(Middleware):
    """Answer requests for the health endpoint, under WSGI and ASGI; pass on all others.

    Raises ImproperlyConfigured for DBPOOL_HEALTH_ settings that are not possible, when the
    server starts.
    """

    def __init__(self, get_response: GetResponse) -> None:
        super().__init__(get_response)
        self.check = health_check()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request, or pass it on."""
        if not self.check.matches(request.path_info):
            return self.get_response(request)
        if self._async:
            # Neither in the thread that Django's synchronous code shares, which may be busy, nor in
            # the event loop's own, of which a crowd of checks would leave nothing to others.
            return sync_to_async(
                health_response, thread_sensitive=False, executor=_health_threads()
            )(self.check, request)
        return health_response(self.check, request)


def health_check() -> HealthCheck:
    """Return the check that the DBPOOL_HEALTH_ settings describe."""
    names = [name for name in dir(settings) if name.startswith("DBPOOL_HEALTH_")]
    given = {name: getattr(settings, name) for name in names}
    try:
        return HealthCheck.configured(_pools, given)
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from None


def health_response(
    check: HealthCheck, request: HttpRequest, pool: str | None = None
) -> HttpResponse:
    """Return the exchange's answer as Django's, byte for byte.

    Arguments: `pool`, a pool's name, "" for all, None where the request's path says which.
    """
    about = (
        request.META.get("QUERY_STRING", ""),
        {name.lower(): value for name, value in request.headers.items()},
        request.META.get("REMOTE_ADDR", ""),
    )
    method = request.method or ""
    status, headers, body = (
        check.respond(method, request.path_info, *about)
        if pool is None
        else check.respond_for(pool, method, *about)
    )
    response = HttpResponse(body, status=status)
    del response["Content-Type"]  # Django's own, where the exchange has none
    for name, value in headers:
        response[name] = value
    # Django logs each answer from 400 on, those from 500 on as errors that are mailed to the
    # admins: one per probe. `dbpool.health` has logged the change of state, once.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


# Threads in which health checks wait, under ASGI. Those of one pool wait for the same probe, and
# whoever comes after it knows its answer: with fewer threads than checks the last waits no longer.
_HEALTH_THREADS = 8
_executor: ThreadPoolExecutor | None = None


def _health_threads() -> ThreadPoolExecutor:
    global _executor
    if _executor is None:  # two at once would do no harm: the threads of one end with its checks
        _executor = ThreadPoolExecutor(_HEALTH_THREADS, thread_name_prefix="django-health")
    return _executor


def _start_in_child() -> None:
    global _executor
    _executor = None  # its threads are the parent's


after_fork(_start_in_child)


def _pools() -> Mapping[str, ConnectionPool]:
    from .pools import all_pools

    return all_pools()
