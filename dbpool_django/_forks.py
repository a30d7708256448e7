"""Wrappers let go, in a forked child, of connections that are the parent process's."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from dbpool import _fork

if TYPE_CHECKING:
    from ._wrapper import PooledWrapper

__all__ = ["know"]

# Wrappers that have ever leased, by id. A plain dict: a fork can come between any two operations.
_live: dict[int, weakref.ref[PooledWrapper]] = {}


def know(wrapper: PooledWrapper) -> None:
    """Have the wrapper told of a fork, for as long as it lives."""
    key = id(wrapper)

    def forget(ref: weakref.ref[PooledWrapper]) -> None:
        if _live.get(key) is ref:
            del _live[key]

    _live[key] = weakref.ref(wrapper, forget)


def _start_in_child() -> None:
    for ref in list(_live.values()):
        wrapper = ref()
        if wrapper is not None:
            wrapper._dbpool_start_in_child()


_fork.on_child(_start_in_child)
