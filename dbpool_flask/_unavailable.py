"""503 for a request that got no connection, where the app has no answer of its own."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, current_app, got_request_exception, request
from werkzeug.exceptions import InternalServerError, ServiceUnavailable

from dbpool._unavailable import UNAVAILABLE, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response

    from dbpool import PoolError

__all__ = ["DatabaseUnavailable", "answer_unavailable"]

logger = logging.getLogger("dbpool.flask")


class DatabaseUnavailable(ServiceUnavailable):
    """The 503 of a request that got no connection, as an app's handler for 503 gets it.

    Attributes: `retry_after` (seconds), `original_exception` (the pool's error).
    """

    def __init__(self, error: PoolError) -> None:
        super().__init__(retry_after=retry_after(error))
        self.original_exception = error


def answer_unavailable(app: Flask) -> None:
    """Have the app answer 503 where it would answer 500 for want of a connection."""
    # A class that has its own way with what nobody handles is an answer of the app's own.
    if type(app).handle_exception is Flask.handle_exception:
        answer = partial(_handle_exception, app, app.handle_exception)
        app.handle_exception = answer  # type: ignore[method-assign]


def _handle_exception(app: Any, handle: Callable[..., Response], *args: Any) -> Response:
    """Stand in for Flask's method, which gets what no handler of the app's has answered.

    That includes errors that Flask never shows to handlers of exceptions: of `after_request`
    functions, and of error handlers that query. Newer versions of Flask pass a context first.
    """
    *context, error = args
    if not isinstance(error, UNAVAILABLE) or _propagates():
        return handle(*args)
    unavailable = DatabaseUnavailable(error)
    find = app._find_error_handler  # the look-up that Flask itself does, blueprints included
    if find(unavailable, request.blueprints) is None and find(
        InternalServerError(original_exception=error), request.blueprints
    ):
        return handle(*args)
    # As Flask does for what is a 500: this is how error trackers hear of it.
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
    # One line and no traceback: under overload there are many, and each says the same.
    logger.warning("%s %r is answered with 503: %s", request.method, request.path, error)
    response = app.make_response(app.handle_http_exception(*context, unavailable))
    if response.status_code == unavailable.code:
        response.headers.setdefault("Retry-After", str(unavailable.retry_after))
    answer: Response = app.finalize_request(*context, response, from_error_handler=True)
    return answer


def _propagates() -> bool:
    """Return whether Flask raises a request's error, which tells enough, instead of answering."""
    propagate = current_app.config["PROPAGATE_EXCEPTIONS"]
    return bool(current_app.testing or current_app.debug if propagate is None else propagate)
