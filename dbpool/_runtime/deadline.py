"""How long the work at hand may take: a deadline that travels with the request, not the call."""

from __future__ import annotations

import math
from contextvars import ContextVar, Token
from types import TracebackType

from .._shown import shown
from ..options import is_number
from .clock import monotonic

__all__ = ["deadline", "until"]

_until: ContextVar[float] = ContextVar("dbpool_deadline", default=math.inf)
until = _until.get  # when it is, on the monotonic clock; infinite if there is none


class deadline:
    """`with deadline(seconds):` nobody inside waits for a connection beyond that.

    It caps what `getconn` and `connection` wait, whatever their timeout; who is late gets
    PoolTimeout at once, unless a connection lies idle. Inside another one the earlier counts. It is
    a context variable: it holds in this thread or task and in what copies its context, not in
    threads that are started inside.
    Arguments: `seconds` from now on. Raises ValueError if that is no number, or infinite.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        if not is_number(seconds) or abs(seconds) == math.inf:
            raise ValueError(f"deadline({shown(seconds)}) is not possible: it takes seconds")
        self._seconds = seconds
        self._token: Token[float] | None = None

    def __enter__(self) -> deadline:
        if self._token is not None:
            raise RuntimeError("this deadline is in use: call deadline() again")
        self._token = _until.set(min(_until.get(), monotonic() + self._seconds))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            _until.reset(token)
