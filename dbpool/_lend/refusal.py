"""What a caller is told that gets no connection: the error, its numbers, and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .._connect.outage import DOWN, STUCK
from .._runtime.clock import monotonic
from .._store.attempt import CHECK_FAILED, Failure
from .._store.waiter import CLOSED, GONE, OVERLOADED
from ..errors import ConnectFailed, Misconfigured, PoolClosed, PoolDown, PoolOverloaded, PoolTimeout
from .holders import held

if TYPE_CHECKING:
    from ..pool import ConnectionPool

__all__ = ["refusal", "timed_out"]


def timed_out(pool: ConnectionPool, waited: float, *, queued: bool) -> BaseException:
    """Return the error for a caller whose time went by on connections that did not answer."""
    with pool._store.lock:
        pool._store.counters.count_failure(queued=queued)
    return refusal(pool, GONE, waited, in_queue=False)


def refusal(
    pool: ConnectionPool,
    answer: Any,
    waited: float,
    allowed: float = math.inf,
    *,
    in_queue: bool = True,
) -> BaseException:
    """Return the error for a caller that gets no connection.

    Arguments: `waited`, seconds; `allowed`, how many it would have waited; `in_queue`, whether
    the caller still stands there.
    """
    store = pool._store
    if answer is CLOSED:
        return pool._error(PoolClosed)(
            f"pool {pool.name!r} was closed while this caller waited for a connection"
        )
    if isinstance(answer, Failure) and answer.mistake is not None:
        error: Any = pool._error(Misconfigured)(
            f"pool {pool.name!r} cannot connect: {answer.mistake.said}"
        )
        error.__cause__ = answer.error
        return error  # type: ignore[no-any-return]
    if isinstance(answer, Failure):
        error = pool._error(ConnectFailed)(
            f"pool {pool.name!r} cannot connect, and trying again will not help: "
            f"{_WORDS.get(answer.reason, answer.reason)}"
        )
        error.reason = answer.reason
        error.__cause__ = answer.error
        return error  # type: ignore[no-any-return]
    if answer is OVERLOADED:
        return _overloaded(pool, waited)
    size, in_use = len(store.entries), len(store.in_use)
    others = max(0, len(pool._queue.waiters) - in_queue)
    outage = pool._outage
    failure = outage.failure
    down = outage.name == DOWN and not outage.paused
    down = down and (failure is not None or outage.cause == STUCK)
    if outage.paused:
        why = "the pool is paused: call resume()"
    elif outage.stuck:
        why = (
            f"{outage.stuck} connects do not end (connect_stuck): see the log for where they hang, "
            "and set a timeout there"
        )
    elif failure is not None:
        why = _failing(pool, failure, f", {outage.attempts} times by now" if down else "")
    elif outage.full:
        why = f"the server has no room for more connections (too_many_connections): {_FULL}"
    elif allowed <= 0 and in_use < store.max_size:
        why = "none is idle just now, and there was no time to wait for one"
    elif store.attempts and in_use < store.max_size:
        why = "connecting takes too long: is the database slow or unreachable?"
    elif in_use < store.max_size:
        why = "connections did not answer or pass their check: is the database well?"
    else:
        why = held(pool, monotonic())
        why += why and ": "
        why += "return connections sooner, or make max_size or timeout larger"
    error = pool._error(PoolDown if down else PoolTimeout)(
        f"pool {pool.name!r}: no connection within {waited:.2f} s; {in_use} of {store.max_size} "
        f"in use, {size} open, {others} others waiting: {why}"
    )
    error.waited, error.size, error.in_use = waited, size, in_use
    error.waiting = others
    error.__cause__ = failure.error if failure is not None else None
    now = monotonic()
    with store.lock:
        store.counters.count_timeout(down=down)
        if down:
            pool._outage.fill_error(error, now)
    if not down:  # else it is no word about the pool's size
        store.timed_out_at = now
    return error  # type: ignore[no-any-return]


def _failing(pool: ConnectionPool, failure: Failure, tried: str) -> str:
    """Return how connecting fails, and what to do; the cause has the server's own words."""
    kind = type(failure.error).__name__
    if failure.reason == CHECK_FAILED:
        return (
            f"no new connection passes its check ({kind}): see the cause, and what check does"
            if pool._check is not None
            else f"no new connection answers a ping ({kind}): see the cause; is the database up, "
            "behind what takes the connections?"
        )
    if failure.mistake is not None:
        return f"connecting fails: {failure.mistake.said}"
    if not isinstance(failure.error, (pool._driver.OperationalError, OSError)):
        return f"connecting fails with {kind}, which is none of the server's errors: see the cause"
    hint = _HINTS.get(failure.reason, "is the database up and reachable?")
    if failure.unclear:
        hint = "the server, or a pooler before it, answers and refuses: see the cause for its words"
    return f"connecting fails ({failure.reason}){tried}: {hint}"


def _overloaded(pool: ConnectionPool, waited: float) -> BaseException:
    store = pool._store
    admission = pool._queue.admission
    assert admission is not None
    size, in_use, waiting = (
        len(store.entries),
        len(store.in_use),
        len(pool._queue.waiters),
    )
    error: Any = pool._error(PoolOverloaded)(
        f"pool {pool.name!r} is overloaded: for {admission.interval:g} s nobody has been served "
        f"within {admission.target:g} s, so this caller is refused after {waited:.2f} s; {in_use} "
        f"of {store.max_size} in use, {waiting} others waiting: try again later, or let fewer "
        "callers ask, or make their work shorter"
    )
    error.waited, error.size, error.in_use, error.waiting = waited, size, in_use, waiting
    error.retry_after = admission.interval
    with store.lock:
        store.counters.count_shed()
    return error  # type: ignore[no-any-return]


_FULL = (
    "let fewer processes connect, make max_size smaller, or allow more connections there "
    "(max_connections, the role's or the database's CONNECTION LIMIT)"
)
_HINTS = {
    "auth": "the server refuses the user or password: see the cause, and correct them",
    "unknown_database": "the database does not exist: see the cause, and correct its name",
    "dns": "the server's name does not resolve: see the cause; is the name right, and DNS up?",
    "tls": "the server and this side do not agree on TLS: see the cause, and what sslmode says",
    "server_shutdown": "the server stops or starts: wait for it",
    "too_many_connections": f"the server has no room for more connections: {_FULL}",
}
_WORDS = {
    "auth": "the server refuses the user or password",
    "unknown_database": "the database does not exist",
}
