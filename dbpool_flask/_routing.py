"""Which database `db.connection` means: the default one, one that `db.using` names, or a replica.

A replica lags behind. So reads go to it only as long as nothing was written in the same context:
from then on they stay on the primary, where what was written can be seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ._marks import Mark
from ._modes import mark

if TYPE_CHECKING:
    from ._scope import Scope

__all__ = ["PRIMARY", "Using", "database"]

PRIMARY = "default"

V = TypeVar("V", bound=Callable[..., Any])


class _Route(NamedTuple):
    scope: weakref.ref[Scope]
    name: str


# Of one thread or task: two that share a request do not turn each other's statements around. It
# names its scope, since an app context that is entered inside has databases of its own.
_route: ContextVar[_Route | None] = ContextVar("dbpool_route", default=None)


class Using:
    """What `db.using(name)` returns: for one `with` block, or to decorate a view or function."""

    __slots__ = ("_before", "_entered", "_name", "_scope")

    def __init__(self, scope: Callable[[], Scope], name: str) -> None:
        self._scope = scope
        self._name = name
        self._before: _Route | None = None
        self._entered = False

    def __enter__(self) -> None:
        if self._entered:
            raise RuntimeError("this block was entered before: call db.using() again")
        scope = self._scope()
        scope.pool(self._name)
        self._entered = scope.routed = True
        self._before = _route.get()
        _route.set(_Route(weakref.ref(scope), self._name))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not by a token: a generator may be closed by another task than the one that ran it.
        _route.set(self._before)

    def __call__(self, view: V) -> V:
        """Return the view, or another function, using that database.

        A view does so until its request is over, a streamed answer and teardown included.
        """
        said = Mark("database", self._name, f"using({self._name!r})", view)
        return mark(view, said, lambda: Using(self._scope, self._name))


def database(scope: Scope) -> str:
    """Return the name of the database that is meant where none is named."""
    route, mode, replica = _route.get(), scope.mode, scope.replica
    if route is not None and route.scope() is scope:
        name = route.name
    else:
        name = mode.database or (replica if mode.read_only and replica else PRIMARY)
    # In a view that cannot write nothing was written.
    if name == replica and not mode.read_only and scope.may_have_written():
        return PRIMARY
    return name
