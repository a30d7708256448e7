"""503 for a request that got no connection, where the app has no answer of its own."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, current_app, got_request_exception, request
from werkzeug.exceptions import HTTPException, InternalServerError, ServiceUnavailable

from dbpool import PoolError
from dbpool.adapters import UNAVAILABLE, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response

__all__ = ["DatabaseUnavailable", "answer_raised", "answer_unavailable", "handling_errors"]

logger = logging.getLogger("dbpool.flask")


class DatabaseUnavailable(ServiceUnavailable):
    """The 503 of a request that got no connection, as an app's handler for 503 gets it.

    Attributes: `retry_after` (seconds), `original_exception` (the pool's error).
    """

    def __init__(self, error: PoolError) -> None:
        super().__init__(retry_after=retry_after(error))
        self.original_exception = error


def answer_unavailable(app: Flask) -> None:
    """Have Flask's own methods answer 503, once for each app."""
    handle = app.handle_http_exception
    app.handle_http_exception = partial(_handle_http, app, handle)  # type: ignore[method-assign]


def handling_errors(app: Flask) -> Callable[..., Response]:
    """Return what answers, in the place of the app's `handle_exception`, what nobody handles."""
    handle = app.handle_exception
    # A class that has its own way with that is an answer of the app's own.
    return handle if _has_its_own(type(app)) else partial(_handle_exception, app, handle)


def _has_its_own(cls: type) -> bool:
    """Return whether a class of apps has another `handle_exception` than Flask's.

    What a tracer has put around Flask's is Flask's still.
    """
    of_class, of_flask = (
        next(
            vars(base)["handle_exception"] for base in c.__mro__ if "handle_exception" in vars(base)
        )
        for c in (cls, Flask)
    )
    return inspect.unwrap(of_class) is not inspect.unwrap(of_flask)


def answer_raised(answer: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call the app's `handle_user_exception`, with what a view has raised as the last argument.

    Flask's own asks the app's handlers, and then leaves it to `handle_exception`. An extension
    that puts itself in front of it (Flask-RESTful, Flask-RESTX) answers by itself: 500 to all but
    HTTPExceptions. So it gets one, which is an instance of the error's class still.
    """
    *context, error = args
    if not isinstance(error, UNAVAILABLE) or isinstance(error, HTTPException) or _propagates():
        return answer(*args)
    refusal = _refusal(error)
    response: Any = answer(*context, refusal)
    if refusal.reached_flask:
        return response
    response = current_app.make_response(response)
    if response.status_code == refusal.code:
        _give_time(response, refusal)
        _log(error)
    return response


def _handle_http(app: Any, handle: Callable[..., Any], *args: Any) -> Any:
    """Stand in for Flask's method: what stands for an error is that error to Flask itself."""
    *context, error = args
    if not getattr(error, "is_refusal", False):
        return handle(*args)
    error.reached_flask = True
    of_flask: Any = Flask.handle_user_exception  # newer versions of Flask pass a context first
    return of_flask(app, *context, error.original_exception)


_refusals: dict[type[PoolError], type[DatabaseUnavailable]] = {}


def _refusal(error: PoolError) -> Any:
    """Return the HTTPException 503 that is also a pool's error of that class."""
    of = type(error)
    both = _refusals.get(of)
    if both is None:
        flags = {"__module__": of.__module__, "is_refusal": True, "reached_flask": False}
        both = _refusals[of] = type(of.__name__, (of, DatabaseUnavailable), flags)
    refusal = both.__new__(both, *error.args)
    refusal.__dict__.update(error.__dict__)
    DatabaseUnavailable.__init__(refusal, error)
    refusal.args = error.args
    return refusal.with_traceback(error.__traceback__)


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
    _log(error)
    response = app.make_response(app.handle_http_exception(*context, unavailable))
    if response.status_code == unavailable.code:
        _give_time(response, unavailable)
    answer: Response = app.finalize_request(*context, response, from_error_handler=True)
    return answer


def _log(error: PoolError) -> None:
    # One line and no traceback: under overload there are many, and each says the same.
    logger.warning("%s %r is answered with 503: %s", request.method, request.path, error)


def _give_time(response: Response, refusal: DatabaseUnavailable) -> None:
    response.headers.setdefault("Retry-After", str(refusal.retry_after))


def _propagates() -> bool:
    """Return whether Flask raises a request's error, which tells enough, instead of answering."""
    propagate = current_app.config["PROPAGATE_EXCEPTIONS"]
    return bool(current_app.testing or current_app.debug if propagate is None else propagate)
