"""Every option of a pool, once: name, default, meaning, check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from . import _values
from ._shown import shown
from ._unknown import ELSEWHERE, nearest, unknown
from ._values import is_number, seconds

if TYPE_CHECKING:
    from .pool import ConnectionPool

__all__ = [
    "ELSEWHERE",
    "OPTIONS",
    "Option",
    "PoolOptions",
    "checked",
    "is_number",
    "nearest",
    "new_sizes",
    "seconds",
    "server_settings",
    "sizes",
    "unknown",
]

_Callback = Callable[[Any], object]


class PoolOptions(TypedDict, total=False):
    """The keyword arguments of `ConnectionPool`; `OPTIONS` has their defaults and meanings."""

    min_size: int
    max_size: int | None
    timeout: float
    max_waiting: int
    admission: str
    admission_target: float
    admission_interval: float
    max_lifetime: float | None
    max_idle: float | None
    validate: str
    validate_after: float
    ping_after: float
    ping_timeout: float
    max_connecting: int
    connect_timeout: float
    down_wait: float
    reconnect_timeout: float
    reconnect_failed: Callable[[ConnectionPool], object] | None
    configure: _Callback | None
    check: _Callback | None
    reset: str | _Callback | None
    close_returns: bool
    max_use: float | None
    statement_timeout: float | None
    idle_in_transaction_session_timeout: float | None
    role: str | None
    reuse: str
    name: str | None
    background: bool
    open: bool


@dataclass(frozen=True)
class Option:
    """One option: what it means when it is not given, and which values it takes."""

    default: Any
    meaning: str
    allowed: str
    check: Callable[[Any], bool]


OPTIONS: dict[str, Option] = {
    "min_size": Option(0, "connections kept open", "a whole number, 0 or more", _values.count(0)),
    "max_size": Option(
        None,
        "connections open at most; 10, or min_size if that alone is given and larger",
        "a whole number, 1 or more, and not below min_size",
        lambda v: v is None or _values.count(1)(v),
    ),
    "timeout": Option(10.0, "seconds to get a connection", _values.SECONDS, _values.positive),
    "max_waiting": Option(
        0,
        "callers in the queue at most, beyond it TooManyRequests; 0 is no limit",
        "a whole number, 0 or more",
        _values.count(0),
    ),
    "admission": Option(
        "fifo",
        "whom the queue serves under overload: all in their order, however long that takes, or "
        "fewer of them soon (PoolOverloaded for the rest)",
        '"fifo" or "codel"',
        _values.one_of("fifo", "codel"),
    ),
    "admission_target": Option(
        0.05, "seconds of waiting that are fine, for codel", _values.SECONDS, _values.positive
    ),
    "admission_interval": Option(
        2.0,
        "seconds in which at least one caller must have waited less than that, for codel",
        _values.SECONDS,
        _values.positive,
    ),
    "max_lifetime": Option(
        3600.0,
        "seconds a connection lives; each its own, up to 25 % less, so that they do not die "
        "together; None is for ever",
        f"{_values.SECONDS}, or None",
        _values.positive_or_none,
    ),
    "max_idle": Option(
        600.0,
        "seconds unused after which a connection above min_size is closed; None is never",
        f"{_values.SECONDS}, or None",
        _values.positive_or_none,
    ),
    "validate": Option(
        "poll",
        "before a connection is handed out: look at its socket (no round trip), ping it, or trust",
        '"poll", "ping" or "off"',
        _values.one_of("poll", "ping", "off"),
    ),
    "validate_after": Option(
        0.1,
        "seconds idle before a look is due, at the latest; 0 is always",
        "0 or more",
        _values.not_negative,
    ),
    "ping_after": Option(
        30.0, "seconds since the last good answer before a ping", "0 or more", _values.not_negative
    ),
    "ping_timeout": Option(
        2.0,
        "seconds for a ping, check, rollback or reset of the pool's own; before a connection is "
        "handed out no more than is left of the caller's timeout, but 0.05 at least",
        _values.SECONDS,
        _values.positive,
    ),
    "max_connecting": Option(
        2, "connects under way at once", "a whole number, 1 or more", _values.count(1)
    ),
    "connect_timeout": Option(
        5.0,
        "seconds for a connect, to each host if there are several; a longer connect_timeout in "
        "the conninfo, in kwargs, PGCONNECT_TIMEOUT or a service file wins",
        _values.SERVER_SECONDS,
        _values.positive_for_server,
    ),
    "down_wait": Option(
        1.0,
        "seconds a caller without a connection waits, within its timeout, while the server cannot "
        "be reached; then PoolDown",
        "0 or more",
        _values.not_negative,
    ),
    "reconnect_timeout": Option(
        300.0,
        "seconds of failed connects before reconnect_failed is called",
        _values.SECONDS,
        _values.positive,
    ),
    "reconnect_failed": Option(
        None, "called with the pool, once per outage", _values.CALLABLE, _values.callable_or_none
    ),
    "configure": Option(
        None, "called with each new connection", _values.CALLABLE, _values.callable_or_none
    ),
    "check": Option(
        None,
        "called with a connection before it is handed out; raises if it is not good",
        _values.CALLABLE,
        _values.callable_or_none,
    ),
    "reset": Option(
        None,
        "what cleans a returned connection beyond its transaction: nothing, DISCARD ALL, DISCARD "
        "ALL where a borrower has changed the session, or a callable",
        f'"rollback", "discard", "auto", {_values.CALLABLE}',
        lambda v: _values.callable_or_none(v) or v in ("rollback", "discard", "auto"),
    ),
    "close_returns": Option(
        False,
        "whether close() of a connection taken by getconn() returns it, for code that knows no "
        "pool (SQLAlchemy's NullPool); not in a `with pool.connection()` block",
        "True or False",
        lambda v: isinstance(v, bool),
    ),
    "max_use": Option(
        None,
        "seconds a connection may be held; then its statement is cancelled, 0.25 s later the "
        "connection is cut off, and its holder gets the driver's OperationalError; None is no "
        "limit; needs background",
        f"{_values.SECONDS}, or None",
        _values.positive_or_none,
    ),
    "statement_timeout": Option(
        None,
        "seconds after which the server ends a statement; set on each session as it begins, so not "
        "behind a pooler that shares sessions; None leaves the server's own",
        f"{_values.SERVER_SECONDS}, or None",
        _values.positive_for_server_or_none,
    ),
    "idle_in_transaction_session_timeout": Option(
        None,
        "seconds after which the server ends a session that idles in a transaction; set in the "
        "same way",
        f"{_values.SERVER_SECONDS}, or None",
        _values.positive_for_server_or_none,
    ),
    "role": Option(
        None,
        'what the server is to the pool: a "primary" takes writes, and a connection whose server '
        "has become read-only is replaced; with several hosts one that takes writes is looked for",
        '"primary", "replica" or None',
        lambda v: v in (None, "primary", "replica"),
    ),
    "reuse": Option(
        "lifo",
        "which idle connection goes first: the last returned, or the longest idle",
        '"lifo" or "fifo"',
        _values.one_of("lifo", "fifo"),
    ),
    "name": Option(
        None,
        "in logs, statistics and application_name; pool-1, pool-2, …",
        "a string that is not empty, no URL, and that UTF-8 can hold, without a NUL; or None",
        _values.name_or_none,
    ),
    "background": Option(
        True,
        "whether threads may be used; False: upkeep and connects happen in callers, who may then "
        "wait connect_timeout beyond their own timeout; a ping has no deadline but the "
        "kernel's",
        "True or False",
        lambda v: isinstance(v, bool),
    ),
    "open": Option(True, "whether to open at once", "True or False", lambda v: isinstance(v, bool)),
}


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options with their values, defaults filled in.

    Raises TypeError for an unknown option, naming the nearest known one; ValueError for a value
    that is not allowed, naming the option, the value and what is.
    """
    for name in given:
        if name not in OPTIONS:
            raise TypeError(unknown(name, OPTIONS))
    for name, value in given.items():
        if not OPTIONS[name].check(value):
            raise ValueError(
                f"{name}={shown(value)} is not possible: it takes {OPTIONS[name].allowed}"
            )
    values = {name: given.get(name, option.default) for name, option in OPTIONS.items()}
    values["min_size"], values["max_size"] = sizes(values["min_size"], values["max_size"])
    if values["max_use"] is not None and not values["background"]:
        raise ValueError(
            f"max_use={values['max_use']!r} with background=False is not possible: it takes a "
            "thread to watch what another one holds"
        )
    return values


def server_settings(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the server settings that the options ask for, in seconds."""
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    return {name: values[name] for name in names if values[name] is not None}


def sizes(min_size: int, max_size: int | None, otherwise: int = 10) -> tuple[int, int]:
    """Return both sizes; max_size None becomes `otherwise`, or min_size if larger.

    Raises ValueError for sizes that are negative or contradict each other.
    """
    if not OPTIONS["min_size"].check(min_size):
        raise ValueError(
            f"min_size={shown(min_size)} is not possible: it takes {OPTIONS['min_size'].allowed}"
        )
    if max_size is None:
        max_size = max(min_size, otherwise)
    if not OPTIONS["max_size"].check(max_size) or max_size < min_size:
        raise ValueError(
            f"max_size={shown(max_size)} with min_size={shown(min_size)} is not possible: max_size "
            f"takes {OPTIONS['max_size'].allowed}"
        )
    return min_size, max_size


def new_sizes(min_size: int, max_size: int | None, now: int) -> tuple[int, int]:
    """Return both sizes for `resize`, where max_size is `now`. Raises ValueError."""
    sizes_ = sizes(min_size, max_size, now)
    if max_size is None and min_size < now:
        raise ValueError(
            f"resize({min_size}) is not clear: write resize({min_size}, {now}) to keep max_size "
            f"as it is, or resize({min_size}, {max(min_size, 1)}) to have no more than that"
        )
    return sizes_
