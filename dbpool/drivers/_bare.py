"""Objects that are not the driver's own: what a tracer, say, has put around a connection."""

from __future__ import annotations

from typing import Any

__all__ = ["bare"]


def bare(obj: Any) -> Any:
    """Return the object at the end of `__wrapped__`, the convention of wrapt's proxies.

    That is `obj` itself where nothing is wrapped. Compare and call by what this returns: a proxy
    passes isinstance(), but has an id of its own, and no C function takes it.
    """
    inner = getattr(obj, "__wrapped__", None)
    if inner is None:
        return obj
    seen = {id(obj)}
    while inner is not None and id(inner) not in seen:
        obj = inner
        seen.add(id(obj))
        inner = getattr(obj, "__wrapped__", None)
    return obj
