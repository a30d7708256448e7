"""The verbose health document: who may read it, and what is in it.

Its shape is that of the IETF draft draft-inadarei-api-health-check. It holds numbers and words of a
closed list; never a host, port, user, database, URL, SQL, exception text, version or pid.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .._shown import shown
from .status import PASS, WARN, Verdict

if TYPE_CHECKING:
    from ..pool import ConnectionPool
    from .probe import Finding

__all__ = ["Access", "Reader", "described", "document"]

logger = logging.getLogger("dbpool.health")

Reader = Callable[[Mapping[str, str], str], bool]

TOKEN_LENGTH = 16  # characters at least: a shorter one could be guessed

# What proxies, balancers and delivery networks add to a request: these, and what begins or ends so.
_ADDED = frozenset(
    (
        *("cdn-loop", "client-ip", "forwarded", "forwarded-for", "proxy-client-ip", "via"),
        *("x-amz-cf-id", "x-amzn-trace-id", "x-cloud-trace-context", "x-host", "x-http-via"),
        *("x-nginx-proxy", "x-real-port", "x-request-start", "x-scheme", "x-varnish"),
    )
)
_PREFIXES = (
    *("cf-", "fly-", "incap-", "x-appengine-", "x-arr-", "x-azure-", "x-cdn-", "x-cluster-"),
    *("x-envoy-", "x-forward", "x-original-", "x-originating-", "x-proxy", "x-sucuri-"),
    "x-vercel-",
)
_SUFFIXES = (
    *("-client-ip", "-connecting-ip", "-forwarded-for", "-peer-ip", "-real-ip", "-remote-ip"),
    *("-clientip", "-client-addr", "-external-address", "-remote-addr", "-socketip", "-user-ip"),
)
_HERE = ("localhost", "ip6-localhost", "ip6-loopback")  # and what ends in .localhost


class Access:
    """Who may read the verbose form: nobody, unless `detail` or `token` says so.

    Arguments: `detail`, "loopback" (an address of this machine's own, a Host that is one or says
    localhost, and no header of a proxy), or a callable that takes the request's headers (names in
    lower case) and address and returns whether it may; `token`, which `Authorization: Bearer
    <token>` must repeat, without the white space around it. Either suffices.
    Raises ValueError for values that are not possible; the token is in no message.
    """

    def __init__(self, detail: object, token: object) -> None:
        if not (detail is None or detail == "loopback" or callable(detail)):
            raise ValueError(
                f'detail={shown(detail)} is not possible: it takes "loopback", a callable, or None'
            )
        self._detail = detail
        self._token = None if token is None else _checked_token(token)
        self._failed = False

    def allows(self, headers: Mapping[str, str], remote_addr: str) -> bool:
        """Return whether this request may read it; raises nothing."""
        if self._token is not None and _bears(headers.get("authorization", ""), self._token):
            return True
        if self._detail == "loopback":
            return (
                _is_loopback(remote_addr)
                and _is_here(headers.get("host", ""))
                and not _is_forwarded(headers)
            )
        if callable(self._detail):
            try:
                return bool(self._detail(headers, remote_addr))
            except Exception as error:
                if not self._failed:
                    self._failed = True
                    logger.error(
                        "the callable for health detail raised %s: nobody gets detail from it",
                        type(error).__name__,
                    )
        return False


def _bears(authorization: str, token: bytes) -> bool:
    scheme, _, given = authorization.strip().partition(" ")
    # In constant time, so that answers do not tell how much of a guess was right.
    right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token)
    return right and scheme.lower() == "bearer"


def _is_loopback(remote_addr: str) -> bool:
    try:
        address = ipaddress.ip_address(remote_addr.partition("%")[0])
    except ValueError:  # a unix socket has none: that is how a proxy on this machine comes in
        return False
    inner = getattr(address, "ipv4_mapped", None)
    return bool(inner.is_loopback if inner is not None else address.is_loopback)


def _is_forwarded(headers: Mapping[str, str]) -> bool:
    return any(
        name in _ADDED or name.startswith(_PREFIXES) or name.endswith(_SUFFIXES) for name in headers
    )


def _is_here(host: str) -> bool:
    """Return whether a Host header says this machine: behind a proxy it is the site's own name.

    Which tells of one whose headers never get here: waitress takes those off that it does not
    trust. A request without any is nobody's who sits at this machine.
    """
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    name = name.removesuffix(".")
    return name in _HERE or name.endswith(".localhost") or _is_loopback(name)


def document(status: str, checks: Mapping[str, list[dict[str, Any]]]) -> bytes:
    """Return the body: compact JSON, keys in a fixed order, a newline at the end."""
    whole = {"status": status, "version": "1", "checks": checks}
    return json.dumps(whole, separators=(",", ":")).encode() + b"\n"


def described(
    name: str, pool: ConnectionPool, verdict: Verdict, good: Finding | None
) -> dict[str, list[dict[str, Any]]]:
    """Return what the document says of one pool.

    Arguments: `good`, what the last probe found that reached the server.
    """
    store = pool._store
    now = monotonic()
    own = [reason for reason in verdict.reasons if reason == "saturated"]
    rest = [reason for reason in verdict.reasons if reason != "saturated"]
    answer: dict[str, Any] = {"componentType": "datastore"}
    at = now
    if good is not None and not (rest and verdict.status not in (PASS, WARN)):
        answer |= {"observedValue": round(good.seconds * 1000, 2), "observedUnit": "ms"}
        at = good.at
    answer["status"] = verdict.status if rest else PASS
    answer["time"] = _clock(now - at)
    if rest:
        answer["output"] = rest[0]
    load: dict[str, Any] = {
        "componentType": "datastore",
        "observedValue": len(store.in_use),
        "observedUnit": "connections",
        "status": WARN if own else PASS,
        "time": _clock(0.0),
    }
    if own:
        load["output"] = own[0]
    waiting = max(0, len(pool._queue.waiters) - (store.phase == "closed"))
    load |= {"max": store.max_size, "idle": len(pool._queue.idle), "waiting": waiting}
    return {f"{name}:responseTime": [answer], f"{name}:connections": [load]}


def _clock(ago: float) -> str:
    """Return the time of day that many seconds ago, as the draft wants it."""
    then = datetime.fromtimestamp(time.time() - ago, tz=timezone.utc)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _checked_token(token: object) -> bytes:
    takes = f"it takes a string of {TOKEN_LENGTH} characters or more, or None"
    if not isinstance(token, str):
        raise ValueError(
            f"token of type {type(token).__name__} is not possible: {takes} (in an environment "
            "variable, digits alone need quotes)"
        )
    token = token.strip()  # one from a file has a line's end, which no header can repeat
    if len(token) < TOKEN_LENGTH:
        raise ValueError(f"token is not possible: {takes} (white space around it does not count)")
    if not (token.isascii() and token.isprintable()):  # what a header holds is read in many ways
        raise ValueError("token is not possible: it takes printable ASCII characters, or None")
    return token.encode()
