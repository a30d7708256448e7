"""What receivers of a request's signals take goes back with the request, whichever comes last.

Django gives connections back by a receiver of `request_finished` as well. One that queries after it
(an audit, metrics; all that are coroutine functions) would leave its connection to the thread until
that serves its next request; so would one of `request_started` that raises: then no request ends.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from asgiref.sync import sync_to_async
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.dispatch import Signal

__all__ = ["sending", "took", "watch"]

# What threads take while they send `request_finished`, by the thread's ident. Asynchronous
# receivers of it query in the thread that sends it, too. Single operations on a dict are atomic.
sending: dict[int, list[Any]] = {}


def took(wrapper: Any) -> None:
    """A wrapper has taken a connection, in this thread; called while any thread is `sending`."""
    taken = sending.get(threading.get_ident())
    if taken is not None:
        taken.append(wrapper)


def watch() -> None:
    """Have the signals of requests give back; harmless if they do."""
    # Their class, and no method of each: what a tracer puts into Signal is called as before.
    if type(request_finished) is Signal:
        request_finished.__class__ = _OnlyDjangos
    if type(request_started) is Signal:
        request_started.__class__ = _OnlyDjangos
    for signal in (request_finished, request_started):
        for _, receiver, *_ in list(signal.receivers):
            _heed(signal, receiver() if isinstance(receiver, weakref.ref) else receiver)


def _heed(signal: Signal, receiver: Any) -> None:
    """Have the signal give back from now on, if this is a receiver that may query."""
    if type(signal) is _OnlyDjangos and not _is_djangos(receiver):
        attentive: type[Signal] = _Finished if signal is request_finished else _Started
        signal.__class__ = attentive  # type: ignore[assignment]


def _is_djangos(receiver: Any) -> bool:
    return receiver is None or str(getattr(receiver, "__module__", "")).startswith("django.")


class _OnlyDjangos(Signal):
    """Nothing comes after Django's own receivers, so each request is spared a look."""

    def connect(self, receiver: Any, *args: Any, **kwargs: Any) -> None:
        super().connect(receiver, *args, **kwargs)
        _heed(self, receiver)


# Both are subclasses of it because a caller may hold its bound `connect` since before the change.
class _Finished(_OnlyDjangos):
    def send(self, sender: Any, **named: Any) -> Any:
        ident = threading.get_ident()  # looked up now: of the greenlet, where gevent has patched it
        outer, taken = sending.get(ident), []  # type: ignore[var-annotated]
        sending[ident] = taken
        try:
            return super().send(sender, **named)
        finally:
            if outer is None:
                del sending[ident]
            else:  # a receiver of this signal has sent it again
                sending[ident] = outer
            if taken and _closes_connections(self):
                for wrapper in taken:
                    if wrapper._dbpool_loan is not None:
                        wrapper.close_if_unusable_or_obsolete()

    async def asend(self, sender: Any, **named: Any) -> Any:
        """Where the client has gone; there is a thread for the request's synchronous code."""
        try:
            return await super().asend(sender, **named)
        finally:
            await sync_to_async(_give_all_back)(self)


class _Started(_OnlyDjangos):
    def send(self, sender: Any, **named: Any) -> Any:
        try:
            return super().send(sender, **named)
        except BaseException:
            _give_all_back(self)
            raise

    async def asend(self, sender: Any, **named: Any) -> Any:
        try:
            return await super().asend(sender, **named)
        except BaseException:
            await sync_to_async(_give_all_back)(self)
            raise


def _give_all_back(signal: Signal) -> None:
    """Do what Django's receiver does, once more."""
    if _closes_connections(signal):
        close_old_connections()


def _closes_connections(signal: Signal) -> bool:
    """Return whether Django's receiver is connected: its test client takes it off, for TestCase."""
    return any(key[0] == id(close_old_connections) for key, *_ in signal.receivers)
