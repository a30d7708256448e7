"""A block around each call of a view, or of another function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

__all__ = ["around"]

V = TypeVar("V", bound=Callable[..., Any])


def around(view: V, block: Callable[[], AbstractContextManager[object]]) -> V:
    """Return the view, each call of it inside a new block; its name and documentation stay.

    Raises TypeError if it cannot be called.
    """
    if not callable(view):
        raise TypeError(f"a {type(view).__name__} cannot be called: decorate a function")
    if inspect.iscoroutinefunction(view):

        @functools.wraps(view)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with block():
                return await view(*args, **kwargs)

        return cast("V", awaited)

    @functools.wraps(view)
    def called(*args: Any, **kwargs: Any) -> Any:
        with block():
            return view(*args, **kwargs)

    return cast("V", called)
