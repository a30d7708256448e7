"""Giving a connection back before Django would."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import iscoroutinefunction
from django.db import connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from dbpool.drivers.base import IDLE

from ._dispatch import Afterwards

__all__ = ["ReleaseBeforeResponse", "released"]

P = ParamSpec("P")
R = TypeVar("R")


def released(func: Callable[P, R]) -> Callable[P, R]:
    """Give this thread's connections back whenever `func` has ended, however it ended.

    For functions that query in threads which serve no request and live on: those of an executor,
    of `asyncio.to_thread` and of `sync_to_async(..., thread_sensitive=False)`. What the function
    left open is rolled back. Within an atomic block of its caller nothing happens.
    Raises TypeError for a coroutine function: it queries in other threads than its own.
    """
    if iscoroutinefunction(func):
        raise TypeError(
            "released() takes a function that queries in its own thread: decorate that one, "
            "not the coroutine that awaits it"
        )

    @wraps(func)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return func(*args, **kwargs)
        finally:
            for wrapper in _with_loans():
                if not wrapper.in_atomic_block:
                    wrapper.close()

    return run


class ReleaseBeforeResponse(Afterwards):
    """Middleware: give connections back when the answer is made, before its first byte is sent.

    Django gives them back after the last one, so clients that read slowly hold connections. What
    is in use stays: an open transaction, a cursor that the body of the answer still reads from,
    and, where the body is a stream, a session that was changed. A body that queries later takes a
    connection again, until the request's end.

    Put it first, or after HealthMiddleware: what middleware above it queries on the way out is
    given back by Django, at the end.
    """

    def _afterwards(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> Callable[[], HttpResponseBase]:
        return partial(_release_unused, response)


def _with_loans() -> list[Any]:
    """Return this thread's wrappers that hold a connection of a pool."""
    return [
        wrapper
        for wrapper in connections.all(initialized_only=True)
        if getattr(wrapper, "_dbpool_loan", None) is not None and wrapper.connection is not None
    ]


def _release_unused(response: HttpResponseBase) -> HttpResponseBase:
    for wrapper in _with_loans():
        loan = wrapper._dbpool_loan
        opener, conn = loan.supplier.opener, wrapper.connection
        if (
            not wrapper.in_atomic_block
            and not wrapper.allow_thread_sharing
            and opener.transaction_status(conn) == IDLE
            and not loan.open_cursors()
            # A body that queries later would do so without its tenant, or lock, or table.
            and not (response.streaming and loan.has_changed(conn))
        ):
            wrapper.close()
    return response
