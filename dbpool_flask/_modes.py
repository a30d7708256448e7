"""How a view's transaction begins and ends: the app's default, and what decorators say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dbpool.adapters import shown

from ._around import around
from ._context import current_context
from ._marks import Mark, leads_from, marks_for, marks_of, put

if TYPE_CHECKING:
    from ._scope import Scope

__all__ = ["WORDS", "Mode", "checked", "mark", "mode_of", "remembered_mode"]

V = TypeVar("V", bound=Callable[..., Any])


class Mode(NamedTuple):
    """`commits`: the end of a request does; `autocommit`: each statement does.

    `database`: the name of the one that is meant where none is named, None being the default;
    `marks`: of the decorators that say so.
    """

    commits: bool = True
    autocommit: bool = False
    read_only: bool = False
    database: str | None = None
    marks: tuple[Mark, ...] = ()

    def undoes(self, error: BaseException) -> bool:
        """Return whether an exception that is no failure undoes what an atomic view has done."""
        return any(mark.word == "request" and leads_from(mark, error) for mark in self.marks)


# The values of DBPOOL_TRANSACTION.
WORDS = {
    "request": Mode(),
    "manual": Mode(commits=False),
    "autocommit": Mode(commits=False, autocommit=True),
}

_NO_BLOCK: AbstractContextManager[None] = nullcontext()


def mark(view: V, said: Mark, block: Callable[[], AbstractContextManager[object]]) -> V:
    """Return the view, or another function, marked, each call of it inside such a block.

    A class of views is marked by its `dispatch_request`, and returned itself. Raises ValueError if
    it is marked otherwise already; TypeError for what cannot be a view.
    """
    if isinstance(view, type):
        dispatch = getattr(view, "dispatch_request", None)
        if dispatch is None:
            raise TypeError(f"{shown(view)} is no class of views: decorate a function")
        view.dispatch_request = mark(dispatch, said, block)  # type: ignore[attr-defined]
        return view
    for other in marks_of(view, above=True):
        if other.kind == said.kind and other.word != said.word:
            raise ValueError(
                f"{said.name!r} is marked {shown(other.word)} already, so it cannot be "
                f"{shown(said.word)}, too"
            )
    return put(said, around(view, block), view)


def checked(view: V, said: Mark, find_scope: Callable[[], Scope]) -> V:
    """Return the view marked; a call that is not in the mode of its mark raises RuntimeError.

    The request has that mode if the mark can be seen from its route. Otherwise something hides
    it, or what is called is not the view.
    """

    def block() -> AbstractContextManager[object]:
        # Nothing is committed unasked where a function enters a context itself, either.
        if not (said.word == "manual" and current_context() is None):
            _check(said, find_scope())
        return _NO_BLOCK

    return mark(view, said, block)


def _check(said: Mark, scope: Scope) -> None:
    mode = scope.mode
    if said.word == "read_only":
        holds = mode.read_only
    elif said.word == "autocommit":
        holds = mode.autocommit
    else:
        holds = not (scope.commits or mode.autocommit)
    if not holds:
        raise RuntimeError(
            f"{said.decorator} on {said.name!r} cannot hold, so the call is refused: the request "
            "that is answered here, or the context, is in another mode. Its view is another "
            "function, has another mark further out, or is hidden from its route by a decorator "
            f"without functools.wraps. Put {said.decorator} on the view, right below its route"
        )


def mode_of(view: Callable[..., Any] | None, method: str, default: Mode) -> Mode:
    """Return the mode of a request with that HTTP method, None being one that matches no view.

    Where two marks contradict each other the outer one counts, and a call of the inner one raises.
    """
    said: dict[str, Mark] = {}
    for found in marks_for(view, method):
        said.setdefault(found.kind, found)
    if not said:
        return default
    mode = WORDS[said["transaction"].word] if "transaction" in said else default
    database = said["database"].word if "database" in said else None
    marks = tuple(said.values())
    return Mode(mode.commits, mode.autocommit, "read_only" in said, database, marks)


def remembered_mode(modes: dict[Any, Mode], view: Any, method: str, default: Mode) -> Mode:
    """Return what `mode_of` does, once found out; of a class of views it depends on the method."""
    key = (view, method) if hasattr(view, "view_class") else view
    try:
        mode = modes.get(key)
        if mode is None:
            mode = modes[key] = mode_of(view, method, default)
    except TypeError:  # it has no hash
        return mode_of(view, method, default)
    return mode
