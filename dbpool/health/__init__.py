"""The `/healthz/db` exchange, framework-free: what a load balancer asks, and the bytes it gets.

For readiness and load balancers, not for liveness: a liveness check on a shared database would
restart every instance when the database blinks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from .. import _values
from .._runtime import forks
from .._runtime.frames import forget_locals
from .._runtime.process import notices_forks
from ..options import unknown
from ..pool import ConnectionPool
from . import document, prober
from .prober import Flight, known_prober
from .status import FAIL, PASS, REASONS, WARN, Limits, Verdict

__all__ = ["REASONS", "Answer", "HealthCheck", "is_draining", "respond", "set_draining"]

logger = logging.getLogger("dbpool.health")

Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, body
Pools = Callable[[], Mapping[str, ConnectionPool]]

# What the frameworks' configuration calls the arguments of `HealthCheck`.
SETTINGS = {
    "DBPOOL_HEALTH_PATH": "prefix",
    "DBPOOL_HEALTH_DEADLINE": "deadline",
    "DBPOOL_HEALTH_TTL": "ttl",
    "DBPOOL_HEALTH_SLOW": "slow",
    "DBPOOL_HEALTH_WARN_STATUS": "warn_status",
    "DBPOOL_HEALTH_DRAIN_STATUS": "drain_status",
    "DBPOOL_HEALTH_DETAIL": "detail",
    "DBPOOL_HEALTH_TOKEN": "token",
}

_METHODS = ("GET", "HEAD", "OPTIONS")
_ALLOW = ("Allow", ", ".join(_METHODS))
_NO_STORE = ("Cache-Control", "no-store")
_DRAINING = Verdict(FAIL, ("draining",))

_draining = False
_unanswerable = False  # whether the log knows that there are no pools to ask


@notices_forks
def set_draining(draining: bool = True) -> None:
    """Say that this process is going away: every health answer of it is `fail` from now on.

    For the hook that runs before a server stops. Requests are still served, and
    `ConnectionPool.drain`, which renews connections, is something else. Any thread may call it.
    """
    global _draining
    changed, _draining = _draining is not draining, draining
    if changed:
        logger.info("this process is %s", "draining" if draining else "not draining any more")


@notices_forks
def is_draining() -> bool:
    """Return whether `set_draining` was called in this process."""
    return _draining


def respond(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    remote_addr: str | None,
    *,
    check: HealthCheck,
) -> Answer:
    """Return `check.respond(...)`: status, headers, body."""
    return check.respond(method, path, query, headers, remote_addr)


class HealthCheck:
    """One health endpoint: where it is, which pools it asks, how long, and how it words answers.

    Arguments: `pools`, called at each request, returns the pools by name without connecting;
    `prefix`, the path for all pools together, one pool's being `<prefix>/<name>`, None for off;
    `deadline`, seconds to an answer; `ttl`, seconds for which what is known counts; `slow`,
    seconds from which on a probe is called slow; `warn_status` and `drain_status`, the statuses
    for a degraded pool and for one that is going away (HAProxy takes 404 for the latter);
    `detail`, who may read the verbose form that `?verbose` asks for: None for nobody, "loopback"
    for this machine itself where no proxy has forwarded the request, or a callable that takes the
    headers (names in lower case) and the address and returns whether; `token`, 16 characters or
    more, that lets in who sends it as `Authorization: Bearer <token>` (white space around it, as of
    one read from a file, is taken off).
    Raises ValueError for values that are not possible. It keeps nothing between two requests.
    """

    def __init__(
        self,
        pools: Pools,
        *,
        prefix: str | None = "/healthz/db",
        deadline: float = 0.75,
        ttl: float = 1.0,
        slow: float = 0.25,
        warn_status: int = 200,
        drain_status: int = 503,
        detail: str | document.Reader | None = None,
        token: str | None = None,
    ) -> None:
        self._pools = pools
        try:
            self.prefix = _values.checked_path("prefix", prefix)
            self.limits = Limits(
                _values.checked_seconds("deadline", deadline),
                _values.checked_seconds("ttl", ttl),
                _values.checked_seconds("slow", slow),
            )
            self.warn_status = _values.checked_status("warn_status", warn_status, 200)
            self.drain_status = _values.checked_status("drain_status", drain_status, 400)
            self._access = document.Access(detail, token)
        except ValueError as error:
            forget_locals(error)
            del prefix, deadline, ttl, slow, warn_status, drain_status, detail, token
            raise

    @classmethod
    def configured(cls, pools: Pools, settings: Mapping[str, Any]) -> HealthCheck:
        """Return a check with what a framework's settings say; other settings are not looked at.

        Raises ValueError for an unknown DBPOOL_HEALTH_ key, naming the nearest known one, and for
        values that are not possible, naming the key.
        """
        given = {key: settings[key] for key in settings if key.startswith("DBPOOL_HEALTH_")}
        for key in given:
            if key not in SETTINGS:
                raise ValueError(unknown(key, SETTINGS, {}, what="setting"))
        try:
            return cls(pools, **{SETTINGS[key]: value for key, value in given.items()})
        except ValueError as error:
            # It begins with the argument's name, which is not what the reader has written.
            argument = str(error).partition("=")[0].split()[0]
            (key,) = (key for key in given if SETTINGS[key] == argument)
            why = f"{key}: {error}"
        finally:
            del settings, given
        raise ValueError(why)

    def matches(self, path: str) -> bool:
        """Return whether a request for `path` is for this endpoint."""
        prefix = self.prefix
        return prefix is not None and (path == prefix or path.startswith(prefix + "/"))

    def respond(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        remote_addr: str | None,
    ) -> Answer:
        """Answer one request; blocks until the deadline at most, raises nothing.

        Arguments: `path`, decoded, without the query; `headers`, with names in lower case;
        `remote_addr`, None or "" where the server knows none.
        `query`, `headers` and `remote_addr` only ever decide about the verbose form; who has no
        right to it gets the same bytes as without them.
        """
        if not self.matches(path):
            return _answer(method, 404, FAIL)
        name = path[len(self.prefix or "") :].removeprefix("/").removesuffix("/")
        return self.respond_for(name, method, query, headers, remote_addr)

    @notices_forks
    def respond_for(
        self,
        name: str,
        method: str,
        query: str,
        headers: Mapping[str, str],
        remote_addr: str | None,
    ) -> Answer:
        """Answer as `respond` does, for the pool of that name, or for all if it is empty."""
        if method not in _METHODS:
            return _answer(method, 405, FAIL)
        try:
            known = self._verdicts(name)
        except Exception as error:  # whatever the settings or the prober do: never a 500
            known = {"": _cannot_ask(prober.describe(error))}
        if known is None:
            return _answer(method, 404, FAIL)
        verdict = min(known.values(), key=_by_severity)
        body = None
        if "" not in known and self._is_verbose(query, headers, remote_addr or ""):
            try:
                body = _described(verdict, known, self._pools())
            except Exception:  # the pools are not those any more that were asked: never a 500
                logger.exception("a health check cannot be described, and is answered without")
        return _answer(method, self._status(verdict), verdict.status, body)

    def _is_verbose(self, query: str, headers: Mapping[str, str], remote_addr: str) -> bool:
        asked = "verbose" in parse_qs(query, keep_blank_values=True)
        return asked and self._access.allows(headers, remote_addr)

    def _verdicts(self, name: str) -> dict[str, Verdict] | None:
        """Return how each pool that is asked for is; None if there is none of that name.

        Under the name "" stands what is true of all, where there is no saying more.
        """
        global _unanswerable
        try:
            pools = self._pools()
        except Exception:
            if _draining and not name:
                return {"": _DRAINING}
            raise
        if name and name not in pools:
            return None
        asked = {name: pools[name]} if name else dict(pools)
        if _draining:
            return dict.fromkeys(asked, _DRAINING) or {"": _DRAINING}
        if not asked:
            return {"": _cannot_ask("no pool is configured")}
        _unanswerable = False
        # First all probes that are due are started, then waited for: together one deadline.
        begun = {
            each: (prober.prober_of(pool), prober.prober_of(pool).begin(pool, self.limits))
            for each, pool in asked.items()
        }
        return {
            each: own.wait(asked[each], known, self.limits) if isinstance(known, Flight) else known
            for each, (own, known) in begun.items()
        }

    def _status(self, verdict: Verdict) -> int:
        if verdict.status == PASS:
            return 200
        if verdict.status == WARN:
            return self.warn_status
        return self.drain_status if _is_going(verdict) else 503


def _by_severity(verdict: Verdict) -> tuple[int, bool]:
    # Of two that fail, one that is ill counts more than one that is going away.
    return (FAIL, WARN, PASS).index(verdict.status), _is_going(verdict)


def _is_going(verdict: Verdict) -> bool:
    return verdict.reasons in (("draining",), ("closed",))


def _cannot_ask(why: str) -> Verdict:
    global _unanswerable
    known, _unanswerable = _unanswerable, True
    if not known:
        logger.error("health checks answer fail: the pools cannot be asked (%s)", why)
    return Verdict(FAIL, ("internal",))


def _described(
    worst: Verdict, verdicts: Mapping[str, Verdict], pools: Mapping[str, ConnectionPool]
) -> bytes:
    checks: dict[str, list[dict[str, Any]]] = {}
    for name, verdict in verdicts.items():
        pool = pools[name]
        prober = known_prober(pool)
        good = prober.good if prober is not None else None
        checks |= document.described(name, pool, verdict, good)
    return document.document(worst.status, checks)


def _answer(method: str, status: int, word: str, body: bytes | None = None) -> Answer:
    """Return the exchange's bytes; nothing but numbers and the closed words ever gets here."""
    if body is None:
        body = b'{"status":"%s"}\n' % word.encode()
    retry = [("Retry-After", "1")] if status == 503 else []
    if method == "OPTIONS":
        return status, [_ALLOW, _NO_STORE, ("Content-Length", "0"), *retry], b""
    headers = [
        ("Content-Type", "application/health+json"),
        _NO_STORE,
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Length", str(len(body))),
        *retry,
    ]
    if status == 405:
        headers.append(_ALLOW)
    return status, headers, b"" if method == "HEAD" else body


def _start_in_child() -> None:
    global _draining, _unanswerable
    _draining = _unanswerable = False


forks.on_child(_start_in_child)
