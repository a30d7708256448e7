"""Which context a piece of code runs in: the only module that knows Flask's private names.

Up to Flask 3.1 there are two context variables, one for the app and one for the request. Flask 3.2
merges both contexts into one class and keeps the first variable.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from typing import TYPE_CHECKING, Any

from flask import globals as flask_globals

if TYPE_CHECKING:
    from flask.ctx import AppContext, RequestContext

__all__ = ["ContextOwner", "app_context", "current_context", "request_context", "slot"]

_numbers = itertools.count(1)

_cv_app = flask_globals._cv_app
_cv_request: Any = getattr(flask_globals, "_cv_request", None)  # None from Flask 3.2 on

# The contexts that Flask's own signals and teardown functions are about: called with None, which
# they return where there is none. A bare app context may lie, and end, inside a request.
request_context = (_cv_app if _cv_request is None else _cv_request).get
app_context = _cv_app.get


def current_context() -> AppContext | RequestContext | None:
    """Return the context that connections belong to here: the request's, else the app's.

    It is the context object that counts, neither the thread (async views run in another) nor
    `flask.g` (several requests may share one app context).
    """
    context = _cv_app.get(None)
    if context is None or _cv_request is None:
        return context
    request: RequestContext | None = _cv_request.get(None)
    if request is not None and request.app is context.app:
        return request
    return context


def slot() -> str:
    """Return the name of an attribute that contexts have to spare, another one at each call.

    What is kept there goes with the context, as in a weak mapping; finding it costs a hundredth of
    a request less.
    """
    return sys.intern(f"_dbpool_{next(_numbers)}")


class ContextOwner(weakref.ref["AppContext | RequestContext"]):
    """Answers for the connections of one context, as `ConnectionPool.own` wants it."""

    __slots__ = ()

    def is_alive(self) -> bool:
        """Return whether the context still exists: if not, nobody will ever end it."""
        return self() is not None
