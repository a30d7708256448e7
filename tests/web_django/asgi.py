"""Requests to the project, made as an ASGI server makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["answer_of", "request"]


def request(path: str, send: Any) -> Any:
    """Return a coroutine: one request, whose answer goes to `send`."""
    from django.core.handlers.asgi import ASGIHandler

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": f"/{path}",
        "query_string": b"",
        "headers": [],
    }
    first = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if not first:
            await asyncio.sleep(3600)
        return first.pop()

    return ASGIHandler()(scope, receive, send)


async def answer_of(path: str, at_each_message: Callable[[], object] = lambda: None) -> int:
    """Make a request, take the whole answer, and return its status."""
    status: list[int] = []

    async def send(message: Any) -> None:
        at_each_message()
        if message["type"] == "http.response.start":
            status.append(message["status"])

    await request(path, send)
    return status[0]
