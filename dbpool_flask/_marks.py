"""What decorators say of views, found from the route through whatever lies between.

A mark stands on the function that the decorator returns. From the route one gets there through
other decorators (`functools.wraps`, wrapt's proxies), `functools.partial`, methods, objects that
are called, and classes of views.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flask.views import MethodView

__all__ = ["Mark", "leads_from", "marks_for", "marks_of", "put"]

# `functools.wraps` copies both to what it makes.
_MARK = "_dbpool_mark"
_ABOVE = "_dbpool_above"

V = TypeVar("V", bound=Callable[..., Any])


class Mark:
    """What one decorator says of one thing; it is itself, and equal to no other.

    `kind`: "transaction", "read_only" or "database"; `word`: what it is to be, for example
    "manual", or a database's name; `decorator`: as it is written; `name`: of what it stands on.
    """

    __slots__ = ("code", "decorator", "kind", "name", "word")

    def __init__(self, kind: str, word: str, decorator: str, view: object) -> None:
        self.kind = kind
        self.word = word
        self.decorator = f"@db.{decorator}"
        name = getattr(view, "__qualname__", None) or type(view).__name__
        self.name = str(name).rpartition("<locals>.")[2]
        *_, innermost = _layers(view)
        self.code = getattr(innermost, "__code__", None)


def put(mark: Mark, marked: V, view: Any) -> V:
    """Put a mark on what the decorator returns, and hint at it on what was decorated.

    Above the route that is what Flask knows: `@db.manual` over `@app.get`. Returns the first.
    """
    vars(marked).pop(_ABOVE, None)  # the hint at a decorator further down
    setattr(marked, _MARK, mark)
    if _is_of_class(view):  # no route knows it, and its other subclasses are not meant
        return marked
    for layer in _layers(view):
        try:
            setattr(layer, _ABOVE, {mark.kind: mark, **_hints(layer)})
        except (AttributeError, TypeError):  # takes no attributes: a bound method, a builtin
            break
        if _mark(layer) is None:  # what lies below has been there before any decorator of ours
            break
    return marked


def marks_for(view: Any, method: str) -> Iterator[Mark]:
    """Yield the marks that hold for a request with that HTTP method, the outermost one first."""
    yield from marks_of(view, above=True)
    of_class = getattr(view, "view_class", None)
    if not isinstance(of_class, type):
        return
    yield from marks_of(getattr(of_class, "dispatch_request", None))
    if issubclass(of_class, MethodView):  # as it looks for the method to call
        answers = getattr(of_class, method.lower(), None)
        if answers is None and method == "HEAD":
            answers = getattr(of_class, "get", None)
        yield from marks_of(answers)


def marks_of(view: Any, above: bool = False) -> Iterator[Mark]:
    """Yield the marks on a function and what it calls; with `above`, of decorators over it, too.

    Such a hint counts only where no mark comes before it: a function that is decorated elsewhere
    as well is still the plain one inside of that.
    """
    for layer in _layers(view):
        if above:
            yield from _hints(layer).values()
        mark = _mark(layer)
        if mark is not None:
            yield mark
            above = False


def leads_from(mark: Mark, error: BaseException) -> bool:
    """Return whether an exception comes out of what the mark stands on."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code is mark.code:
            return True
        traceback = traceback.tb_next
    return False


def _is_of_class(function: Any) -> bool:
    path = str(getattr(function, "__qualname__", "")).split(".")
    return len(path) > 1 and path[-2] != "<locals>"


def _layers(view: Any) -> Iterator[Any]:
    seen: set[int] = set()
    while view is not None and id(view) not in seen:
        seen.add(id(view))
        yield view
        view = _within(view)


def _within(layer: Any) -> Any:
    """Return what a layer calls, as far as one can see."""
    wrapped = getattr(layer, "__wrapped__", None)
    if wrapped is not None:
        return wrapped
    if isinstance(layer, functools.partial):
        return layer.func
    if isinstance(layer, types.MethodType):
        return layer.__func__
    call = getattr(type(layer), "__call__", None)  # noqa: B004 - the function itself is wanted
    return call if isinstance(call, types.FunctionType) else None


def _mark(layer: Any) -> Mark | None:
    mark = getattr(layer, _MARK, None)
    return mark if isinstance(mark, Mark) else None  # a Mock has attributes of any name


def _hints(layer: Any) -> dict[str, Mark]:
    hints = getattr(layer, _ABOVE, None)
    return hints if isinstance(hints, dict) else {}
