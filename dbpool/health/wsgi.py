"""The health endpoint in front of a WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..health import HealthCheck

__all__ = ["HealthEndpoint"]


class HealthEndpoint:
    """`app.wsgi_app = HealthEndpoint(app.wsgi_app, check)`: all but health requests go through.

    In front, not a route: there neither host checks, login hooks nor redirects of the
    application can answer a load balancer, and OPTIONS is no special case.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], check: HealthCheck) -> None:
        self.app = app
        self.check = check

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a health check's request, and leave all others to the application."""
        path, prefix = environ.get("PATH_INFO", ""), self.check.prefix
        # Nearly every request is none of ours: one look says so.
        if prefix is None or not path.startswith(prefix) or not self.check.matches(path):
            return self.app(environ, start_response)
        status, headers, body = self.check.respond(
            environ["REQUEST_METHOD"],
            path.encode("latin-1", "replace").decode("utf-8", "replace"),  # PEP 3333: bytes
            environ.get("QUERY_STRING", ""),
            {
                key[5:].replace("_", "-").lower(): value
                for key, value in environ.items()
                if key.startswith("HTTP_")
            },
            environ.get("REMOTE_ADDR", ""),
        )
        start_response(f"{status} {_phrase(status)}", headers)
        return [body] if body else []


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a warn_status that has no name
        return "Unknown"
