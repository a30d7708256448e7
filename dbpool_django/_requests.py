"""What receivers of a request's signals take goes back with the request, whichever comes last.

Django gives connections back by a receiver of `request_finished` as well. One that queries after it
(an audit, metrics; all that are coroutine functions) would leave its connection to the thread until
that serves its next request; so would one of `request_started` that raises: then no request ends.
"""

from __future__ import annotations

from contextvars import ContextVar
from threading import get_ident
from typing import Any

from asgiref.sync import sync_to_async
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.dispatch import Signal

__all__ = ["took", "watch"]

# What is taken while a signal is sent. A context goes along into the threads of `sync_to_async`.
_taken: ContextVar[list[Any] | None] = ContextVar("dbpool_django.taken", default=None)


def took(wrapper: Any) -> None:
    """A wrapper has taken a connection."""
    taken = _taken.get()
    if taken is not None:
        taken.append(wrapper)


def watch() -> None:
    """Have the signals of requests give back; harmless if they do."""
    # Their class, and no method of each: what a tracer puts into Signal is called as before.
    if type(request_finished) is Signal:
        request_finished.__class__ = _Finished
    if type(request_started) is Signal:
        request_started.__class__ = _Started


class _Finished(Signal):
    def send(self, sender: Any, **named: Any) -> Any:
        token = _taken.set([])
        try:
            return super().send(sender, **named)
        finally:
            _give_back(self)
            _taken.reset(token)

    async def asend(self, sender: Any, **named: Any) -> Any:
        token = _taken.set([])
        try:
            return await super().asend(sender, **named)
        finally:
            if _taken.get():
                await sync_to_async(_give_back)(self)
            _taken.reset(token)


class _Started(Signal):
    def send(self, sender: Any, **named: Any) -> Any:
        token = _taken.set([])
        try:
            return super().send(sender, **named)
        except BaseException:
            _give_back(self)
            raise
        finally:
            _taken.reset(token)

    async def asend(self, sender: Any, **named: Any) -> Any:
        token = _taken.set([])
        try:
            return await super().asend(sender, **named)
        except BaseException:
            if _taken.get():
                await sync_to_async(_give_back)(self)
            raise
        finally:
            _taken.reset(token)


def _give_back(signal: Signal) -> None:
    """Do once more what Django's receiver does, for what was taken after it."""
    for wrapper in _taken.get() or ():
        if (
            wrapper._dbpool_loan is not None
            and wrapper._thread_ident == get_ident()
            and _closes_connections(signal)
        ):
            wrapper.close_if_unusable_or_obsolete()


def _closes_connections(signal: Signal) -> bool:
    """Return whether Django's receiver is connected: its test client takes it off, for TestCase."""
    return any(key[0] == id(close_old_connections) for key, *_ in signal.receivers)
