"""What a caller is told that gets no connection: the error, its numbers, and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from .._connect.outage import DOWN, STUCK
from .._runtime.clock import monotonic
from .._store.attempt import CHECK_FAILED, Failure
from .._store.waiter import CLOSED, GONE, OVERLOADED
from ..errors import (
    ConnectFailed,
    Misconfigured,
    PoolClosed,
    PoolDown,
    PoolError,
    PoolOverloaded,
    PoolTimeout,
    for_driver,
)
from .holders import held

if TYPE_CHECKING:
    from .._connect.outage import Outage
    from .._store.handoff import Handoff
    from .._store.settings import Settings

__all__ = ["Refusals"]

_E = TypeVar("_E", bound=PoolError)

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


class Refusals:
    """Words the errors of one pool, and counts them."""

    def __init__(self, queue: Handoff, outage: Outage, settings: Settings) -> None:
        self.store, self.queue = queue.store, queue
        self.outage = outage
        self._settings = settings

    def error(self, kind: type[_E]) -> type[_E]:
        """Return that class of errors as one which is also the driver's OperationalError."""
        return for_driver(kind, self.store.driver.OperationalError)

    def timed_out(self, waited: float, *, queued: bool) -> BaseException:
        """Return the error for a caller whose time went by on connections that did not answer."""
        with self.store.lock:
            self.store.counters.count_failure(queued=queued)
        return self.refusal(GONE, waited, in_queue=False)

    def refusal(
        self,
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
        if answer is CLOSED:
            return self.error(PoolClosed)(
                f"pool {self.store.name!r} was closed while this caller waited for a connection"
            )
        if isinstance(answer, Failure) and answer.mistake is not None:
            error: Any = self.error(Misconfigured)(
                f"pool {self.store.name!r} cannot connect: {answer.mistake.said}"
            )
            error.__cause__ = answer.error
            return error  # type: ignore[no-any-return]
        if isinstance(answer, Failure):
            error = self.error(ConnectFailed)(
                f"pool {self.store.name!r} cannot connect, and trying again will not help: "
                f"{_WORDS.get(answer.reason, answer.reason)}"
            )
            error.reason = answer.reason
            error.__cause__ = answer.error
            return error  # type: ignore[no-any-return]
        if answer is OVERLOADED:
            return self._overloaded(waited)
        size, in_use = len(self.store.entries), len(self.store.in_use)
        others = max(0, len(self.queue.waiters) - in_queue)
        failure = self.outage.failure
        down = self.outage.name == DOWN and not self.outage.paused
        down = down and (failure is not None or self.outage.cause == STUCK)
        if self.outage.paused:
            why = "the pool is paused: call resume()"
        elif self.outage.stuck:
            why = (
                f"{self.outage.stuck} connects do not end (connect_stuck): see the log for where "
                "they hang, and set a timeout there"
            )
        elif failure is not None:
            why = self._failing(failure, f", {self.outage.attempts} times by now" if down else "")
        elif self.outage.full:
            why = f"the server has no room for more connections (too_many_connections): {_FULL}"
        elif allowed <= 0 and in_use < self.store.max_size:
            why = "none is idle just now, and there was no time to wait for one"
        elif self.store.attempts and in_use < self.store.max_size:
            why = "connecting takes too long: is the database slow or unreachable?"
        elif in_use < self.store.max_size:
            why = "connections did not answer or pass their check: is the database well?"
        else:
            why = held(self.store, monotonic())
            why += why and ": "
            why += "return connections sooner, or make max_size or timeout larger"
        error = self.error(PoolDown if down else PoolTimeout)(
            f"pool {self.store.name!r}: no connection within {waited:.2f} s; {in_use} of "
            f"{self.store.max_size} in use, {size} open, {others} others waiting: {why}"
        )
        error.waited, error.size, error.in_use = waited, size, in_use
        error.waiting = others
        error.__cause__ = failure.error if failure is not None else None
        now = monotonic()
        with self.store.lock:
            self.store.counters.count_timeout(down=down)
            if down:
                self.outage.fill_error(error, now)
        if not down:  # else it is no word about the pool's size
            self.store.timed_out_at = now
        return error  # type: ignore[no-any-return]

    def _failing(self, failure: Failure, tried: str) -> str:
        """Return how connecting fails, and what to do; the cause has the server's own words."""
        kind = type(failure.error).__name__
        if failure.reason == CHECK_FAILED:
            return (
                f"no new connection passes its check ({kind}): see the cause, and what check does"
                if self._settings.check is not None
                else f"no new connection answers a ping ({kind}): see the cause; is the database "
                "up, behind what takes the connections?"
            )
        if failure.mistake is not None:
            return f"connecting fails: {failure.mistake.said}"
        if not isinstance(failure.error, (self.store.driver.OperationalError, OSError)):
            return (
                f"connecting fails with {kind}, which is none of the server's errors: see the cause"
            )
        hint = _HINTS.get(failure.reason, "is the database up and reachable?")
        if failure.unclear:
            hint = (
                "the server, or a pooler before it, answers and refuses: see the cause for its "
                "words"
            )
        return f"connecting fails ({failure.reason}){tried}: {hint}"

    def _overloaded(self, waited: float) -> BaseException:
        admission = self.queue.admission
        assert admission is not None
        size, in_use, waiting = (
            len(self.store.entries),
            len(self.store.in_use),
            len(self.queue.waiters),
        )
        error: Any = self.error(PoolOverloaded)(
            f"pool {self.store.name!r} is overloaded: for {admission.interval:g} s nobody has been "
            f"served within {admission.target:g} s, so this caller is refused after {waited:.2f} "
            f"s; {in_use} of {self.store.max_size} in use, {waiting} others waiting: try again "
            "later, or let fewer callers ask, or make their work shorter"
        )
        error.waited, error.size, error.in_use, error.waiting = waited, size, in_use, waiting
        error.retry_after = admission.interval
        with self.store.lock:
            self.store.counters.count_shed()
        return error  # type: ignore[no-any-return]
