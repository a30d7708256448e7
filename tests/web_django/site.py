"""A web site whose views are made in a test, called the way servers call it.

Django's test client will not do: it keeps connections from being given back at a request's end.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Answer", "Site", "urlpatterns"]

urlpatterns: list[Any] = []  # this module is the project's ROOT_URLCONF

View = Callable[..., Any]


class Answer(NamedTuple):
    status: int
    text: str


class Site:
    """The site, as a WSGI server sees it."""

    def __init__(self) -> None:
        from django.core.handlers.wsgi import WSGIHandler

        self._handler: WSGIHandler | None = None

    def view(self, path: str) -> Callable[[View], View]:
        """Serve a path by the decorated function, from now on."""
        from django.urls import clear_url_caches
        from django.urls import path as route

        def add(view: View) -> View:
            urlpatterns[:] = [one for one in urlpatterns if one.pattern._route != path]
            urlpatterns.append(route(path, view))
            clear_url_caches()
            return view

        return add

    def start(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Send a request; return status and the response, which the caller must close()."""
        from django.core.handlers.wsgi import WSGIHandler

        if self._handler is None:
            self._handler = WSGIHandler()
        status: list[str] = []
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": f"/{path}",
            "SERVER_NAME": "test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.url_scheme": "http",
        }
        response = self._handler(environ, lambda line, headers, *_: status.append(line))
        return int(status[0].split()[0]), response

    def get(self, path: str, method: str = "GET") -> Answer:
        """Send a request, read the answer and close it, as a WSGI server does."""
        status, response = self.start(path, method)
        try:
            body = b"".join(response)
        finally:
            response.close()
        return Answer(status, body.decode())
