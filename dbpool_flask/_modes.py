"""How a view's transaction begins and ends: the app's default, and what decorators say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from dbpool._shown import shown

__all__ = ["WORDS", "Mode", "mark", "mode_of"]

_MARK = "_dbpool_mode"  # an attribute of the view: functools.wraps copies it to decorated ones

V = TypeVar("V", bound=Callable[..., Any])


class Mode(NamedTuple):
    """`commits`: the end of a request does; `autocommit`: each statement does.

    `database`: the name of the one that is meant where none is named, None being the default.
    """

    commits: bool = True
    autocommit: bool = False
    read_only: bool = False
    database: str | None = None


# The values of DBPOOL_TRANSACTION.
WORDS = {
    "request": Mode(),
    "manual": Mode(commits=False),
    "autocommit": Mode(commits=False, autocommit=True),
}


def mark(view: V, word: str, kind: str = "transaction") -> V:
    """Mark a view, for example as "manual". Returns the view itself.

    Arguments: `kind`, "transaction", "read_only" or "database" (then `word` is its name).
    Raises ValueError if it is marked otherwise already; TypeError if it takes no marks.
    """
    marks: dict[str, str] = dict(getattr(view, _MARK, None) or {})
    if marks.setdefault(kind, word) != word:
        raise ValueError(
            f"{getattr(view, '__name__', '')!r} is marked {shown(marks[kind])} already, so it "
            f"cannot be {shown(word)}, too"
        )
    try:
        setattr(view, _MARK, marks)
    except AttributeError:
        raise TypeError(
            f"an object {shown(view)} takes no attributes: decorate a function"
        ) from None
    return view


def mode_of(view: Callable[..., Any] | None, default: Mode) -> Mode:
    """Return the mode of a view, None being a request that matches none."""
    marks: dict[str, str] | None = getattr(view, _MARK, None)
    if marks is None:
        return default
    mode = WORDS[marks["transaction"]] if "transaction" in marks else default
    return Mode(mode.commits, mode.autocommit, "read_only" in marks, marks.get("database"))
