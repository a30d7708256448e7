"""The exception tree of the pool.

Every error that acquiring raises is a `PoolError` and at the same time the `OperationalError` of
the driver in use, so that `except psycopg2.OperationalError` and Django's wrappers catch it. The
combined class is made once per driver by `for_driver`, not once per raise.
"""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

__all__ = [
    "CommitUnknown",
    "ConnectFailed",
    "Misconfigured",
    "PoolClosed",
    "PoolDown",
    "PoolError",
    "PoolOverloaded",
    "PoolTimeout",
    "TooManyRequests",
    "TransactionAborted",
]


class PoolError(Exception):
    """The root of all errors that the pool itself raises."""

    _combined_with: tuple[str, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A combined class cannot be found by its name, so it is made again where it is unpickled.
        base = next(cls for cls in type(self).__mro__ if "_combined_with" not in vars(cls))
        if type(self)._combined_with is None:
            base = type(self)
        return _restore, (base, type(self)._combined_with, self.args, self.__dict__)


class PoolTimeout(PoolError):
    """No connection could be had in time.

    Attributes: `waited` (seconds), `size` (connections open), `in_use` (of them lent out),
    `waiting` (other callers in the queue). `__cause__` is the last connect error if connecting is
    what failed.
    """

    waited: float = 0.0
    size: int = 0
    in_use: int = 0
    waiting: int = 0


class PoolDown(PoolTimeout):
    """The server cannot be reached, and did not come back within `down_wait`.

    Attributes, besides those of `PoolTimeout`: `since` (when the outage began, as `time.time()`
    counts), `attempts` (connects tried in it), `next_attempt` (seconds until the next one), `cause`
    (a word of `drivers.base.REASONS`). `__cause__` is the driver's own error.
    """

    since: float = 0.0
    attempts: int = 0
    next_attempt: float = 0.0
    cause: str = "connect_failed"


class TooManyRequests(PoolError):
    """The queue of callers is as long as `max_waiting` allows."""


class PoolOverloaded(PoolError):
    """More is asked of the pool than it can serve: this caller is refused, not kept waiting.

    Only with `admission="codel"`. Attributes: `waited` (seconds), `size` (connections open),
    `in_use` (of them lent out), `waiting` (other callers in the queue), `retry_after` (seconds
    until it may be worth trying again).
    """

    waited: float = 0.0
    size: int = 0
    in_use: int = 0
    waiting: int = 0
    retry_after: float = 1.0


class PoolClosed(PoolError):
    """The pool is not open (any more)."""


class ConnectFailed(PoolError):
    """The server refuses connections for a reason that waiting cannot mend.

    A wrong password, an unknown role or database. `reason` is a word of `drivers.base.REASONS`,
    `__cause__` the driver's own error.
    """

    reason: str = "connect_failed"


class Misconfigured(ConnectFailed):
    """Connecting fails by what the pool was given, before a server was asked, or by what it says.

    An option that the driver or libpq does not take, a server setting that there is none of, a
    conninfo, kwargs or configure callable that raises. It is no outage, and waiting does not mend
    it. `reason` is "misconfigured"; `__cause__` is the driver's error, or the callable's, unless
    its text may quote a secret.
    """

    reason: str = "misconfigured"


class TransactionAborted(PoolError):
    """A commit was asked for, but there is no transaction any more that could be committed.

    It had failed (the server would roll it back), or its session had ended before, or was closed.
    What had been committed before that stays: the message says what is known of it.
    """


class CommitUnknown(PoolError):
    """The link was lost during COMMIT: whether the server committed cannot be known from here.

    Or it was lost in autocommit mode, where each statement commits by itself. Never retried by the
    pool. Look for what was written, by a key of its own, before writing it again. `__cause__` is
    the driver's own error, if the COMMIT has met with it. A link that is known to have been lost
    before the COMMIT was sent is TransactionAborted instead.
    """


_E = TypeVar("_E", bound=PoolError)


_combined: dict[tuple[type[PoolError], type[Exception]], type[Any]] = {}


def for_driver(error: type[_E], operational_error: type[Exception]) -> type[_E]:
    """Return `error` combined with the driver's `operational_error`; thread-safe.

    Made once per driver: of two threads that make it at the same time one class wins.
    """
    found: type[_E] | None = _combined.get((error, operational_error))
    if found is not None:
        return found
    if issubclass(error, operational_error):
        return error
    combined: type[_E] = type(
        error.__name__,
        (error, operational_error),
        {
            "__module__": error.__module__,
            "__qualname__": error.__qualname__,
            "__doc__": error.__doc__,
            "_combined_with": (operational_error.__module__, operational_error.__qualname__),
        },
    )
    return _combined.setdefault((error, operational_error), combined)


def _restore(
    error: type[PoolError],
    combined_with: tuple[str, str] | None,
    args: tuple[Any, ...],
    state: dict[str, Any],
) -> PoolError:
    """Make the error again in another process, which may lack the driver."""
    if combined_with is not None:
        module, name = combined_with
        try:
            error = for_driver(error, getattr(importlib.import_module(module), name))
        except (ImportError, AttributeError):
            pass
    restored = error(*args)
    restored.__dict__.update(state)
    return restored
