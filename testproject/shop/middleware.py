from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse

log = logging.getLogger("shop")


class DatabaseUnavailable:
    """Answer 503 where a request failed for want of a database or of a free connection.

    The client does not know then whether its order was placed. It may look by the order's key, or
    send the order again: the key is unique.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, OperationalError):
            return None
        log.error("%s %s: %s", request.method, request.path, error)
        message = {"error": "the database did not answer, try again with the same key"}
        return JsonResponse(message, status=503, headers={"Retry-After": "1"})
