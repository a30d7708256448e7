"""`Response(db.keep_open(rows()))`: a stream that keeps its request's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flask import stream_with_context

from dbpool import PoolError
from dbpool.adapters import monotonic

if TYPE_CHECKING:
    from ._context import ContextOwner
    from ._scope import Scope

__all__ = ["KeptOpen", "Stream"]


class KeptOpen:
    """A body at whose end the request's unit is committed.

    It is rolled back if the body breaks off: by an error of its own, by a client that goes away,
    or because it takes longer than `seconds`. A commit that fails breaks the body off as well,
    which is all that the client of a stream can be told. So the commit comes before the last
    chunk: in HTTP/1.0 the end of the connection is the end of the answer, and one that ends early
    is told from a whole one by what is missing, if at all.
    """

    def __init__(self, scope: Scope, body: Iterable[Any], seconds: float) -> None:
        self._scope = scope
        self._body = body
        self._seconds = seconds
        self._deadline = monotonic() + seconds
        self._stream = scope.keep_open(self._deadline)
        # The outer object closes what the inner generator never got to: closing a generator that
        # was not started runs nothing of it.
        self._chunks: Iterator[Any] = stream_with_context(self._in_context())

    def __iter__(self) -> KeptOpen:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)

    def _in_context(self) -> Iterator[Any]:
        whole = False
        last: Any = None  # sent when there is another, or when the commit has succeeded
        try:
            for chunk in self._body:
                if chunk:  # an empty one would have servers send the status, and holds back nothing
                    if last is not None:
                        yield last
                    last = chunk
                if monotonic() >= self._deadline:
                    raise PoolError(
                        f"a stream kept its connection for longer than {self._seconds:g} s, the "
                        "limit that was given to db.keep_open(): it is broken off and rolled back"
                    )
            whole = True
        finally:
            self._scope.end_stream(self._stream, commit=whole)
        if last is not None:
            yield last

    def close(self) -> None:
        """Called by the server when it is done with the body, whole or not."""
        try:
            self._chunks.close()  # type: ignore[attr-defined]
        finally:
            self._scope.end_stream(self._stream, commit=False)
            close = getattr(self._body, "close", None)
            if close is not None:
                close()


class Stream:
    """A stream that keeps a unit open; answers for its connections until its deadline."""

    __slots__ = ("_deadline", "_owner", "runs")

    def __init__(self, deadline: float, owner: ContextOwner) -> None:
        self._deadline = deadline
        self._owner = owner
        self.runs = False

    def is_alive(self) -> bool:
        """Return whether anybody may still end it; asked where the pool is exhausted."""
        return monotonic() < self._deadline and self._owner.is_alive()

    def forked(self) -> None:
        """Have the context let go of it, in a forked child."""
        self._owner.forked()
