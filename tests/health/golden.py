"""The golden exchanges: what is asked in which situation, and every byte of the answer.

The bare function, Flask and Django answer all of them, in their own process and under gunicorn,
each site with a host check, a redirect to HTTPS and a login hook in front of its routes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.support.waiting import PATIENCE

__all__ = [
    "EXCHANGES",
    "HOST",
    "OWN_HEADERS",
    "PATIENT",
    "SITUATIONS",
    "TOKEN",
    "Exchange",
    "Reply",
    "Request",
    "comparable",
]

HOST = "shop.example"  # the one host that the sites accept
TOKEN = "what-an-operator-knows"  # with which the sites show detail
# How long an answer takes is not what is tested.
PATIENT = {"DBPOOL_HEALTH_DEADLINE": PATIENCE, "DBPOOL_HEALTH_SLOW": PATIENCE}

SITUATIONS = ("well", "saturated", "down", "black hole", "draining")


class Request(NamedTuple):
    """What a load balancer sends; `host` None is a request without that header."""

    method: str = "GET"
    path: str = "/healthz/db"
    query: str = ""
    host: str | None = HOST
    version: str = "1.1"
    authorization: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Its headers, but for those that every request has."""
        sent = {"host": self.host, "authorization": self.authorization}
        return {name: value for name, value in sent.items() if value is not None}


class Reply(NamedTuple):
    """What it gets: our own headers, in their order."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def comparable(reply: Reply) -> Reply:
    """Return a verbose reply without what no two runs have in common: times and durations."""
    headers = dict(reply.headers)
    if b'"version"' not in reply.body:
        return reply
    assert headers["Content-Length"] == str(len(reply.body))
    body = re.sub(rb'"time":"20\d\d-\d\d-\d\dT[\d:.]{12}Z"', b'"time":"T"', reply.body)
    body = re.sub(rb'"observedValue":\d+\.\d+,"obs', b'"observedValue":0.0,"obs', body)
    fitting = {**headers, "Content-Length": str(len(body))}
    return Reply(reply.status, tuple(fitting.items()), body)


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


def _verbose(status: str, answer: str, load: str) -> Reply:
    body = (
        f'{{"status":"{status}","version":"1","checks":{{'
        f'"default:responseTime":[{{"componentType":"datastore",{answer}}}],'
        f'"default:connections":[{{"componentType":"datastore",{load},"waiting":0}}]}}}}\n'
    ).encode()
    headers = tuple({**dict(_PLAIN), "Content-Length": str(len(body))}.items())
    if status == "fail":
        return Reply(503, (*headers, _RETRY), body)
    return Reply(200, headers, body)


# Nobody has used the pool yet, and a probe opens no connection of it.
_NONE = '"observedValue":0,"observedUnit":"connections","status":"pass","time":"T","max":1,"idle":0'
_TIMED = '"observedValue":0.0,"observedUnit":"ms","status":"pass","time":"T"'
_KNOWING = Request(query="verbose", authorization=f"Bearer {TOKEN}")
VERBOSE = {
    "well": _verbose("pass", _TIMED, _NONE),
    "down": _verbose("fail", '"status":"fail","time":"T","output":"connect_refused"', _NONE),
    "draining": _verbose("fail", '"status":"fail","time":"T","output":"draining"', _NONE),
}


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
    Exchange("a wrong token", "well", _KNOWING._replace(authorization="Bearer guess"), PASSED),
    Exchange("the right, not asked", "well", _KNOWING._replace(query=""), PASSED),
    *(Exchange(f"verbose while {when}", when, _KNOWING, reply) for when, reply in VERBOSE.items()),
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
