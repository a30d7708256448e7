"""Sending a golden request: to a WSGI application, and over HTTP."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterable
from typing import Any

from tests.health.golden import OWN_HEADERS, Reply, Request, comparable

__all__ = ["by_http", "by_wsgi", "own"]


def own(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Reply:
    """Return the reply with our own headers; fail if others send the client elsewhere."""
    headers = list(headers)
    names = {name.title() for name, _ in headers}
    assert not names & {"Set-Cookie", "Location", "Www-Authenticate"}, headers
    kept = tuple((name, value) for name, value in headers if name in OWN_HEADERS)
    return comparable(Reply(status, kept, body))


def by_wsgi(app: Callable[..., Any], request: Request, **environ: Any) -> Reply:
    """Send it the way a WSGI server does, but for what follows the answer."""
    started: list[Any] = []
    given = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "SERVER_NAME": "10.0.0.7",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": f"HTTP/{request.version}",
        "REMOTE_ADDR": "10.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **{f"HTTP_{name.upper()}": value for name, value in request.headers.items()},
        **environ,
    }
    response = app(given, lambda line, headers, *_: started.append((line, headers)))
    try:
        body = b"".join(response)
    finally:
        if hasattr(response, "close"):
            response.close()
    ((line, headers),) = started
    return own(int(line.split()[0]), headers, body)


def by_http(port: int, request: Request) -> Reply:
    """Send it over a connection of its own, and read all there is to come."""
    target = f"{request.path}?{request.query}" if request.query else request.path
    lines = [f"{request.method} {target} HTTP/{request.version}", "Connection: close"]
    lines += [f"{name.title()}: {value}" for name, value in request.headers.items()]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    pairs = [(name, value) for name, _, value in (line.partition(": ") for line in headers)]
    return own(int(status.split()[1]), pairs, body)
