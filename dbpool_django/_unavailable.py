"""503 for a request that got no connection."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.core.signals import got_request_exception
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template import TemplateDoesNotExist, loader
from django.utils.log import log_response

from dbpool import PoolError
from dbpool.adapters import UNAVAILABLE, retry_after

from ._dispatch import Afterwards, GetResponse

__all__ = ["UnavailableMiddleware"]

TEMPLATE = "503.html"
PAGE = """
<!doctype html>
<html lang="en">
<head>
  <title>Service Unavailable (503)</title>
</head>
<body>
  <h1>Service Unavailable (503)</h1><p>Try again in a moment.</p>
</body>
</html>
"""

_NOTE = "_dbpool_unavailable"  # attribute of a request: the error that made its answer a 500


class UnavailableMiddleware(Afterwards):
    """Answer 503 with Retry-After where a request got no connection, instead of 500.

    Because the pool was exhausted, overloaded, or down. What a view or another middleware (by
    `process_exception`) makes of the error counts. The page is the template `503.html`, rendered
    without a context like Django's 500.html, or a plain one. With DEBUG the page is Django's, with
    its traceback. The signal got_request_exception is sent as for a 500.

    Put it first, or after HealthMiddleware: it answers for views, and for what stands below it.
    """

    def __init__(self, get_response: GetResponse) -> None:
        super().__init__(get_response)
        got_request_exception.connect(_note, dispatch_uid=_NOTE)

    def _afterwards(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> Callable[[], HttpResponseBase] | None:
        # A 500 that comes of an unavailable pool becomes a 503. Its template may come from a file,
        # or from anywhere.
        error = _noted(request, response)
        return None if error is None else partial(_answer, request, error)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer an error of a view, or of rendering its template."""
        error = _refusal(exception)
        if error is None or _shows_errors():
            return None
        # As Django does for what is a 500: this is how error trackers hear of it.
        got_request_exception.send(sender=None, request=request)
        request.__dict__.pop(_NOTE, None)
        return _answer(request, error)


def _refusal(error: BaseException | None) -> PoolError | None:
    """Return the pool's refusal that this error is; as a rule it comes in one of Django's own."""
    if isinstance(error, Error):
        error = error.__cause__
    return error if isinstance(error, UNAVAILABLE) else None


def _shows_errors() -> bool:
    return bool(settings.DEBUG or settings.DEBUG_PROPAGATE_EXCEPTIONS)


# What other middleware raises never reaches this one: Django makes an answer of it on the way.
def _note(request: HttpRequest | None = None, **kwargs: Any) -> None:
    """Receive got_request_exception, which is sent while the error is being handled."""
    error = _refusal(sys.exc_info()[1])
    if request is not None and error is not None and not _shows_errors():
        request.__dict__[_NOTE] = error


def _noted(request: HttpRequest, response: HttpResponseBase) -> PoolError | None:
    error: PoolError | None = request.__dict__.pop(_NOTE, None)
    return error if response.status_code == 500 else None


def _answer(request: HttpRequest, error: PoolError) -> HttpResponse:
    try:
        page = loader.get_template(TEMPLATE).render()
    except TemplateDoesNotExist:
        page = PAGE
    response = HttpResponse(page, status=503, headers={"Retry-After": str(retry_after(error))})
    # Not as an error, which Django mails to the admins: one mail per refused request.
    log_response(
        "%s: %s: %s",
        response.reason_phrase,
        request.path,
        str(error),
        response=response,
        request=request,
        level="warning",
    )
    return response
