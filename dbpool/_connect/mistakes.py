"""Which failures of a connect are the configuration's doing, and what is said of each.

What the user's own callables raise, what they return that is none, what no driver takes, and what
libpq or the server refuse of the options. No retry mends these, and they are no outage. Whether the
driver's error is one is for the driver to say (`Driver.mistake`); nothing here reads a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .. import drivers
from .._runtime import frames
from ..drivers.base import Mistake
from ..errors import PoolError

if TYPE_CHECKING:
    from types import TracebackType

    from .._store.attempt import Attempt
    from ..drivers.base import Driver

__all__ = ["asked", "in_callback", "users_part"]

# What is at work of the user's, as an error calls it.
_CALLED = {
    "conninfo": "the conninfo callable",
    "kwargs": "the kwargs callable",
    "parameters": "what the connection's parameters come from",
}


def asked(
    driver: Driver,
    conninfo: str | Callable[[], str],
    kwargs: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    attempt: Attempt,
) -> tuple[str, Mapping[str, Any]]:
    """Return conninfo and kwargs for a connect; where they are callables, by calling them.

    Raises TypeError or ValueError for what they return that is none; whatever they raise.
    """
    if callable(conninfo):
        said: str | None = call(attempt, "conninfo", conninfo)
        if said is None:  # what choose() takes for one that comes later
            raise TypeError("the conninfo callable returned None: it must return a string")
        conninfo = drivers.choose(said, driver)[1] or ""
    if callable(kwargs):
        kwargs = call(attempt, "kwargs", kwargs)
        if not isinstance(kwargs, Mapping):
            raise TypeError(
                f"the kwargs callable returned an object of type {type(kwargs).__name__}: it must "
                "return a mapping"
            )
    return conninfo, kwargs


def call(attempt: Attempt, what: str, callback: Any, *args: Any) -> Any:
    """Call one of the user's, whose error is none of the server's."""
    attempt.in_callback = what
    answer = callback(*args)
    attempt.in_callback = ""
    return answer


def before_connect(attempt: Attempt, error: Exception) -> None:
    """Note an error from before the driver's connect: it cannot be a server's."""
    if attempt.in_callback:
        return
    if frames.is_ours(error) and isinstance(error, (TypeError, ValueError)):
        attempt.mistake = Mistake(str(error))
    else:  # a framework asks a class of the user's own
        attempt.in_callback = "parameters"


def of_connect(
    driver: Driver,
    attempt: Attempt,
    error: Exception,
    conninfo: str,
    kwargs: Mapping[str, Any],
) -> Exception:
    """Note whether the driver's connect has failed by what it was given; return what to raise."""
    attempt.mistake = mistake = driver.mistake(error, conninfo, kwargs)
    if mistake is not None and mistake.quotes:
        return driver.OperationalError(mistake.said)
    return error


def in_callback(what: str, error: BaseException) -> Mistake:
    """Return what is said of an error in the user's own callable."""
    if isinstance(error, PoolError):  # what the pool itself holds against it
        return Mistake(str(error))
    return Mistake(
        f"{_CALLED.get(what, what)} raised {type(error).__name__}: see the cause, and the log for "
        "where that was"
    )


def users_part(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that is in the user's own code.

    The error becomes the cause of callers' errors, and is logged. The frames of ours that it came
    through would keep the pool alive in there.
    """
    while traceback is not None and frames.is_frame_of_ours(traceback.tb_frame):
        traceback = traceback.tb_next
    return traceback
