"""The golden exchanges: what is asked in which situation, and every byte of the answer.

The bare function, Flask and Django answer all of them, in their own process and under gunicorn,
each site with a host check, a redirect to HTTPS and a login hook in front of its routes.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EXCHANGES", "HOST", "OWN_HEADERS", "SITUATIONS", "Exchange", "Reply", "Request"]

HOST = "shop.example"  # the one host that the sites accept

SITUATIONS = ("well", "saturated", "down", "black hole", "draining")


class Request(NamedTuple):
    """What a load balancer sends; `host` None is a request without that header."""

    method: str = "GET"
    path: str = "/healthz/db"
    query: str = ""
    host: str | None = HOST
    version: str = "1.1"


class Reply(NamedTuple):
    """What it gets: our own headers, in their order."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Exchange(NamedTuple):
    """One request in one situation, and the reply to it."""

    name: str
    situation: str
    request: Request
    reply: Reply


_PLAIN = (
    ("Content-Type", "application/health+json"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Length", "18"),
)
_OPTIONS = (
    ("Allow", "GET, HEAD, OPTIONS"),
    ("Cache-Control", "no-store"),
    ("Content-Length", "0"),
)
_RETRY = ("Retry-After", "1")
_PASS, _WARN, _FAIL = (b'{"status":"%s"}\n' % word for word in (b"pass", b"warn", b"fail"))

OWN_HEADERS = {name for name, _ in (*_PLAIN, *_OPTIONS, _RETRY)}

PASSED = Reply(200, _PLAIN, _PASS)
WARNED = Reply(200, _PLAIN, _WARN)
FAILED = Reply(503, (*_PLAIN, _RETRY), _FAIL)
UNKNOWN = Reply(404, _PLAIN, _FAIL)
REFUSED = Reply(405, (*_PLAIN, _OPTIONS[0]), _FAIL)


def _head(reply: Reply) -> Reply:
    return reply._replace(body=b"")


def _options(status: int) -> Reply:
    return Reply(status, (*_OPTIONS, _RETRY) if status == 503 else _OPTIONS, b"")


EXCHANGES = [
    Exchange("GET", "well", Request(), PASSED),
    Exchange("GET with a trailing slash", "well", Request(path="/healthz/db/"), PASSED),
    Exchange("GET one pool", "well", Request(path="/healthz/db/default"), PASSED),
    Exchange("GET one pool, slash", "well", Request(path="/healthz/db/default/"), PASSED),
    Exchange("GET a pool that is none", "well", Request(path="/healthz/db/nosuch"), UNKNOWN),
    Exchange("GET beneath a pool", "well", Request(path="/healthz/db/default/x"), UNKNOWN),
    Exchange("HEAD", "well", Request("HEAD"), _head(PASSED)),
    Exchange("HEAD a pool that is none", "well", Request("HEAD", "/healthz/db/x"), _head(UNKNOWN)),
    Exchange("OPTIONS", "well", Request("OPTIONS"), _options(200)),
    Exchange("POST", "well", Request("POST"), REFUSED),
    Exchange("PUT to a pool", "well", Request("PUT", "/healthz/db/default"), REFUSED),
    Exchange("verbose without the right", "well", Request(query="verbose"), PASSED),
    Exchange("an IP address as Host", "well", Request(host="10.0.0.7"), PASSED),
    Exchange("OPTIONS, an IP as Host", "well", Request("OPTIONS", host="10.0.0.7"), _options(200)),
    Exchange("HTTP/1.0 without Host", "well", Request(host=None, version="1.0"), PASSED),
    Exchange("HAProxy's", "well", Request("OPTIONS", host=None, version="1.0"), _options(200)),
    *(
        Exchange(f"{request.method} while {situation}", situation, request, reply)
        for situation, get in (
            ("saturated", WARNED),
            ("down", FAILED),
            ("black hole", FAILED),
            ("draining", FAILED),
        )
        for request, reply in (
            (Request(), get),
            (Request(query="verbose"), get),
            (Request(host="10.0.0.7"), get),
            (Request(path="/healthz/db/default"), get),
            (Request(path="/healthz/db/nosuch"), UNKNOWN),
            (Request("HEAD"), _head(get)),
            (Request("OPTIONS"), _options(get.status)),
            (Request("POST"), REFUSED),
        )
    ),
]
