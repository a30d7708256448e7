"""What each middleware here has in common: it serves under WSGI and ASGI, without a thread's hop.

Django's own MiddlewareMixin takes one thread hop per request and middleware under ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest
from django.http.response import HttpResponseBase

__all__ = ["Afterwards", "GetResponse", "Middleware"]

GetResponse = Callable[[HttpRequest], "HttpResponseBase | Awaitable[HttpResponseBase]"]


class Middleware:
    """Is a coroutine function where what it calls is one."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer a request, or have it answered."""
        raise NotImplementedError


class Afterwards(Middleware):
    """Has the request answered, and then does what `_afterwards` says."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Have the request answered, and see to the answer."""
        if self._async:
            return self._later(request)
        response = self.get_response(request)
        rest = self._afterwards(request, response)  # type: ignore[arg-type] # no coroutine
        return response if rest is None else rest()

    async def _later(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]
        rest = self._afterwards(request, response)
        if rest is None:
            return response
        # Where Django runs this request's synchronous code, and keeps its connections.
        return await sync_to_async(rest, thread_sensitive=True)()

    def _afterwards(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> Callable[[], HttpResponseBase] | None:
        """Return what makes the answer that is sent, in the thread of the connections; or None.

        Runs in any thread, the event loop's too: it only looks.
        """
        raise NotImplementedError
