"""Which context a piece of code runs in: the only module that knows Flask's private names.

Up to Flask 3.1 there are two context variables, one for the app and one for the request. Flask 3.2
merges both contexts into one class and keeps the first variable.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from flask import globals as flask_globals

if TYPE_CHECKING:
    from flask.ctx import AppContext, RequestContext

__all__ = ["ContextOwner", "current_context"]

_cv_app = flask_globals._cv_app
_cv_request: Any = getattr(flask_globals, "_cv_request", None)  # None from Flask 3.2 on


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


class ContextOwner(weakref.ref["AppContext | RequestContext"]):
    """Answers for the connections of one context, as `ConnectionPool.own` wants it."""

    __slots__ = ()

    def is_alive(self) -> bool:
        """Return whether the context still exists: if not, nobody will ever end it."""
        return self() is not None
