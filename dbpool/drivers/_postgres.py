"""What psycopg2 and psycopg have in common: connection defaults, and the server's error texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..drivers import _hosts, _service
from .base import MISCONFIGURED

__all__ = [
    "address",
    "connect_seconds",
    "defaults",
    "elsewhere",
    "host_seconds",
    "is_disconnect",
    "reason",
    "routed",
    "with_settings",
]

# libpq reads these from the environment where the option is not given.
_ENVIRONMENT = {"connect_timeout": "PGCONNECT_TIMEOUT"}


def defaults(
    given: Mapping[str, Any], environ: Mapping[str, str], timeout: float, name: str
) -> dict[str, Any]:
    """Return the connect options that the user has not set, nor the service in use.

    Keepalives find a dead path on an idle connection, tcp_user_timeout on one that has sent
    something: each mends one half only, so both are set.
    """
    service = _service.settings(given, environ)
    if service is None:  # it may set any of them
        return {}
    wanted = {
        "connect_timeout": max(math.ceil(timeout), 2),  # libpq takes 1 for 2
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,  # ms
        "fallback_application_name": name,  # a service file, PGAPPNAME or the user's own wins
    }
    ours = {
        key: value
        for key, value in wanted.items()
        if not (key in given or key in service or environ.get(_ENVIRONMENT.get(key, "")))
    }
    if "connect_timeout" not in given and "connect_timeout" in service:
        ours["connect_timeout"] = service["connect_timeout"]  # psycopg does not see it there
    return ours


def connect_seconds(given: Mapping[str, Any], environ: Mapping[str, str], timeout: float) -> float:
    """Return how long a connect may take: the user's own connect_timeout if that is longer.

    libpq's is for each host. One of 0, no limit at all, leaves the deadline to the pool.
    """
    service = _service.settings(given, environ) or {}
    own = given.get("connect_timeout", service.get("connect_timeout"))
    if own is None:
        own = environ.get(_ENVIRONMENT["connect_timeout"])
    try:
        timeout = max(timeout, int(own or 0))
    except ValueError:  # libpq refuses it
        pass
    hosts = given.get("hostaddr") or given.get("host") or service.get("host") or ""
    return timeout * (1 + str(hosts).count(","))


def host_seconds(given: Mapping[str, Any], environ: Mapping[str, str]) -> float:
    """Return how long libpq waits for one host; infinity for a user's own 0, or what is none."""
    service = _service.settings(given, environ) or {}
    own = given.get("connect_timeout", service.get("connect_timeout"))
    try:
        seconds = int(own or environ.get(_ENVIRONMENT["connect_timeout"]) or 0)
    except ValueError:
        seconds = 0
    return max(seconds, 2) if seconds > 0 else math.inf  # libpq takes 1 for 2


def address(given: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what decides which server is connected to."""
    return tuple(
        str(given.get(key) or environ.get(f"PG{key.upper()}", ""))
        for key in ("service", "host", "hostaddr", "port")
    )


def endpoints(where: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the hosts and ports of an `address`; none if they are sockets here, or not known."""
    service, host, hostaddr, port = where
    hosts = [each for each in (hostaddr or host).split(",") if each and each[0] not in "/@"]
    ports = [each or "5432" for each in port.split(",")]
    if service or len(ports) not in (1, len(hosts)):
        return []
    return list(zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True))


def with_settings(
    given: Mapping[str, Any],
    kwargs: Mapping[str, Any],
    environ: Mapping[str, str],
    settings: Mapping[str, float],
) -> Mapping[str, Any]:
    """Return `kwargs` with server settings (in seconds) that a session starts with.

    They follow what the user has in `options`, PGOPTIONS or a service file, and so win over it. Set
    at the start they are what RESET and DISCARD ALL go back to.
    """
    service = _service.settings(given, environ) or {}
    own = given.get("options") or service.get("options") or environ.get("PGOPTIONS") or ""
    ours = (f"-c {name}={math.ceil(value * 1000)}" for name, value in settings.items())
    return {**kwargs, "options": " ".join([*([str(own)] if own else []), *ours])}


def routed(
    given: Mapping[str, Any],
    kwargs: Mapping[str, Any],
    last: Any,
    primary: bool,
    environ: Mapping[str, str],
) -> Mapping[str, Any]:
    """Return `kwargs` with the hosts in the order in which they are to be tried.

    Arguments: `given`, conninfo and kwargs together; `last`, the host that served last, or None;
    `primary`, whether only one that takes writes will do; `environ`, where the PG* variables are.
    """
    given = {**elsewhere(given, environ), **given}
    ours: dict[str, Any] = dict(_hosts.in_order(given, last))
    if primary and _hosts.count(given) > 1 and "target_session_attrs" not in given:
        ours["target_session_attrs"] = "read-write"
    return {**kwargs, **ours} if ours else kwargs


def elsewhere(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the service in use and libpq's variables say of hosts and TLS."""
    return {**_from_environment(environ), **(_service.settings(given, environ) or {})}


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what libpq's variables say of hosts and TLS: PGHOST, PGTARGETSESSIONATTRS, ..."""
    keys = (
        *("host", "hostaddr", "port", "target_session_attrs", "load_balance_hosts"),
        *("sslmode", "sslrootcert"),
    )
    names = {key: f"PG{key.replace('_', '').upper()}" for key in keys}
    return {key: environ[name] for key, name in names.items() if environ.get(name)}


_STATES = {
    "28000": "auth",
    "28P01": "auth",
    "3D000": "unknown_database",
    "42501": "auth",  # no CONNECT on the database
    "53300": "too_many_connections",
    "57P01": "server_shutdown",
    "57P02": "server_shutdown",
    "57P03": "server_shutdown",
    # Of a server setting in `options`: there is none of that name, or not with that value.
    "22023": MISCONFIGURED,
    "42601": MISCONFIGURED,
    "42704": MISCONFIGURED,
    "55P02": MISCONFIGURED,
}

# At connect neither driver has a SQLSTATE. These texts of server and libpq, read off PostgreSQL 15
# to 18, save asking for it (`_sqlstate`), and no promise hangs on them. The first that fits counts.
_TEXTS = (
    ("too many clients already", "too_many_connections"),
    ("remaining connection slots are reserved", "too_many_connections"),
    ("too many connections for", "too_many_connections"),
    ("the database system is", "server_shutdown"),
    ("terminating connection due to", "server_shutdown"),
    ("unrecognized configuration parameter", MISCONFIGURED),
    ("invalid value for parameter", MISCONFIGURED),
    ("invalid command-line argument", MISCONFIGURED),
    ("cannot be changed without restarting", MISCONFIGURED),
    ("password authentication failed", "auth"),
    ("authentication failed", "auth"),
    ("no password supplied", "auth"),
    ("no pg_hba.conf entry", "auth"),
    ("pg_hba.conf rejects", "auth"),
    ("is not permitted to log in", "auth"),
    ("permission denied for database", "auth"),
    ("could not translate host name", "dns"),
    ("could not resolve", "dns"),
    ("failed to resolve host", "dns"),  # psycopg resolves names itself
    ("timeout expired", "connect_timeout"),
    ("connection timed out", "connect_timeout"),
    ("connection refused", "connect_refused"),
    ("no such file or directory", "connect_refused"),
    ("does not support ssl", "tls"),
    ("ssl error", "tls"),
    ("certificate", "tls"),
)


def reason(sqlstate: str | None, text: str) -> str:
    """Return a word of REASONS for a failed connect."""
    if sqlstate:
        return _STATES.get(sqlstate, "connect_failed")
    text = text.lower()
    if "role " in text and "does not exist" in text:
        return "auth"
    if "database " in text and "does not exist" in text:
        return "unknown_database"
    for part, word in _TEXTS:
        if part in text:
            return word
    return "connect_failed"


def is_disconnect(sqlstate: str | None) -> bool:
    """Return whether the SQLSTATE says that the session is over.

    Class 08; shutdown, crash, starting up, idle timeouts. Not 57014 (cancelled), 40001, 40P01.
    """
    return bool(sqlstate) and (
        str(sqlstate).startswith("08")
        or sqlstate in ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
    )
