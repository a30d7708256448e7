"""A method of the driver's object, which the fence hands out in the place of the driver's own."""

from __future__ import annotations

from typing import Any

from dbpool.drivers.base import bare

__all__ = ["Method", "is_method"]


def is_method(value: Any, target: Any, name: str) -> bool:
    """Return whether an attribute is a method of the driver's object.

    Behind a proxy it belongs to what the proxy stands for, and what a tool has put in the place of
    a method belongs to nobody.
    """
    if not callable(value) or isinstance(value, type):
        return False
    inner = bare(target)
    if bare(getattr(value, "__self__", None)) is inner:
        return True
    return callable(getattr(type(inner), name, None))


class Method:
    """A method of the driver's object that was looked up, and looks again when it is called."""

    __slots__ = ("_name", "_of")

    def __init__(self, of: Any, name: str) -> None:
        self._of = of
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._of._call(self._name, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._of!r}>"
