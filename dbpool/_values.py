"""Which values an option takes, of a pool or of a health check, and how an error says so."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable
from typing import Any

from ._shown import shown

__all__ = [
    "CALLABLE",
    "SECONDS",
    "SERVER_SECONDS",
    "callable_or_none",
    "checked_path",
    "checked_seconds",
    "checked_status",
    "count",
    "is_number",
    "name_or_none",
    "not_negative",
    "one_of",
    "positive",
    "positive_for_server",
    "positive_for_server_or_none",
    "positive_or_none",
    "seconds",
    "takes",
]

_UNSENDABLE = re.compile("[\0\ud800-\udfff]|://")
_LONGEST = 2_147_483  # seconds: in ms, what the server and libpq can hold

SECONDS = "a finite number of seconds greater than 0"
CALLABLE = "a callable of one argument that is no coroutine function, or None"
SERVER_SECONDS = f"a number of seconds greater than 0, {_LONGEST} at most"


def is_number(value: Any) -> bool:
    """Return whether the value is a real number: no bool, no NaN, no int too large for a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max or abs(value) == math.inf


def seconds(name: str, value: Any) -> float:
    """Return the seconds that a method is given. Raises ValueError for what is no number."""
    if not is_number(value):
        raise ValueError(f"{name}={shown(value)} is not possible: it takes seconds")
    return float(value)


def count(least: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least


def positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf


def positive_for_server(value: Any) -> bool:
    return is_number(value) and 0 < value <= _LONGEST


def positive_for_server_or_none(value: Any) -> bool:
    return value is None or positive_for_server(value)


def not_negative(value: Any) -> bool:
    return is_number(value) and 0 <= value < math.inf


def positive_or_none(value: Any) -> bool:
    return value is None or positive(value)


def one_of(*words: str) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, str) and v in words


def takes(value: Callable[..., Any], *args: object) -> bool:
    """Return whether it can be called with so many arguments; True where that is not known."""
    try:
        inspect.signature(value).bind(*args)
    except TypeError:
        return False
    except ValueError:  # some of C's have no signature
        pass
    return True


def callable_or_none(value: Any) -> bool:
    # What a coroutine function returns would be awaited by nobody: a check that passes everything.
    if value is None or not callable(value):
        return value is None
    call = getattr(type(value), "__call__", None)  # noqa: B004 - of an object with an async one
    awaited = inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call)
    return not awaited and takes(value, None)


def name_or_none(value: Any) -> bool:
    if value is None:
        return True
    # It goes to libpq as UTF-8, which reads no further than a NUL, whatever follows in a conninfo.
    # And a URL would stand in each log line.
    return isinstance(value, str) and bool(value) and not _UNSENDABLE.search(value)


def checked_path(name: str, value: object) -> str | None:
    """Return the path of an endpoint, with a slash before it; None is off. Raises ValueError."""
    if value is None:
        return None
    possible = isinstance(value, str) and value.isascii() and value.strip("/")
    if not possible or "://" in str(value):
        raise ValueError(
            f"{name}={shown(value)} is not possible: it takes a path of ASCII letters, or None "
            "for off"
        )
    return "/" + str(value).strip("/")


def checked_seconds(name: str, value: float) -> float:
    """Return finite seconds greater than 0. Raises ValueError."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name}={shown(value)} is not possible: it takes seconds greater than 0")
    return value


def checked_status(name: str, value: int, least: int) -> int:
    """Return a status of HTTP, from `least` on. Raises ValueError."""
    if not is_number(value) or value not in range(least, 600) or value // 100 == 3 or value == 500:
        raise ValueError(
            f"{name}={shown(value)} is not possible: it takes an HTTP status from {least} to 599 "
            "that is neither a redirect nor 500"
        )
    return int(value)
