"""Which context a piece of code runs in: the only module that knows Flask's private names.

Up to Flask 3.1 there are two context variables, one for the app and one for the request. Flask 3.2
merges both contexts into one class and keeps the first variable.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from flask import globals as flask_globals

if TYPE_CHECKING:
    from flask.ctx import AppContext, RequestContext

__all__ = [
    "ContextOwner",
    "Owner",
    "app_context",
    "begun_request",
    "current_context",
    "request_context",
    "slot",
]

_SLOT = "_dbpool_"
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
    `flask.g` (several requests may share one app context). An app context that was entered in the
    middle of a request is one of its own, as all are from Flask 3.2 on.
    """
    context = _cv_app.get(None)
    if context is None or _cv_request is None:
        return context
    request: Any = _cv_request.get(None)
    if request is None:
        return context
    if getattr(request, _HOME, None) is context or _is_of(request, context):
        return request  # type: ignore[no-any-return]
    return context


def begun_request() -> Any:
    """Return the context of the request that Flask begins to answer."""
    context: Any = request_context(None)
    if _cv_request is not None:
        context._dbpool_app_context = _cv_app.get()
    return context


# Where a request's context remembers the app context that it lies in, up to Flask 3.1.
_HOME = "_dbpool_app_context"


def _is_of(request: Any, context: AppContext) -> bool:
    """Return whether an app context belongs to a request, or was entered inside of it."""
    if request.app is not context.app:
        return False
    own = [pushed for _, pushed in request._cv_tokens if pushed is not None]
    if own:  # each push of the request's context has made one, or has found one
        return context in own
    if hasattr(request, _HOME):
        return False
    # Not begun yet, and in an app context that was there: nothing can have been entered since.
    request._dbpool_app_context = context
    return True


def slot() -> str:
    """Return the name of an attribute that contexts have to spare, another one at each call.

    What is kept there goes with the context, as in a weak mapping; finding it costs a hundredth of
    a request less.
    """
    return sys.intern(f"{_SLOT}{next(_numbers)}")


class Owner(Protocol):
    """Who answers for a connection; see `ConnectionPool.own`."""

    def is_alive(self) -> bool:
        """Return False if nobody is ever going to return it."""

    def forked(self) -> None:
        """Let go of it: this is a forked child of the process that it was lent to."""


class ContextOwner(weakref.ref["AppContext | RequestContext"]):
    """Answers for the connections of one context, as `ConnectionPool.own` wants it."""

    __slots__ = ()

    def is_alive(self) -> bool:
        """Return whether the context still exists: if not, nobody will ever end it."""
        return self() is not None

    def forked(self) -> None:
        """Have it let go, in a forked child, of connections that are the parent process's."""
        context = self()
        if context is not None:
            for name, scope in list(vars(context).items()):
                if name.startswith(_SLOT):
                    scope.forked()
