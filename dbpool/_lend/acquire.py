"""How a caller gets a connection where the one on top of the idle ones will not simply do.

`ConnectionPool.getconn` hands out by itself what it may hand out unseen. Here is the rest: none is
idle, or the one that was is due for a look, a ping, a check or its end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import options
from .._runtime import sockets
from .._runtime.clock import monotonic
from .._runtime.deadline import until
from .._shown import shown
from .._upkeep import usable
from .refusal import timed_out
from .waiting import wait_for_connection

if TYPE_CHECKING:
    from .._store.entry import Entry, Held
    from ..pool import ConnectionPool

__all__ = ["acquire", "look_again"]

Ready = tuple[Any, "Entry", float]  # a connection to be lent, its entry, and the time it is now


def acquire(pool: ConnectionPool, timeout: float | None) -> Ready:
    """Queue for a connection, since none is idle. Arguments and errors as `getconn` has them."""
    started = monotonic()
    deadline = started + (pool.timeout if timeout is None else _seconds(timeout))
    if (limit := until()) < deadline:
        deadline = limit
    held = wait_for_connection(pool, started, deadline)
    conn, entry = held
    now = monotonic()
    if pool._background and (now < entry.good_until or _quiet(pool, entry, now)):
        entry.count_wait(now - started)  # the ordinary case: it has just come back
        return conn, entry, now
    return _fit(pool, held, started, deadline, queued=True)


def look_again(pool: ConnectionPool, held: Held, now: float, timeout: float | None) -> Ready:
    """Return this idle connection, which is ours alone, if it is good; else get another one."""
    if timeout is None:
        if _quiet(pool, held[1], now):
            return *held, now
        timeout = pool.timeout
    else:
        try:
            timeout = _seconds(timeout)
        except ValueError:  # looked at only now, since most calls need none
            pool._queue.offer(held)
            raise
    return _fit(pool, held, now, min(now + timeout, until()), queued=False)


def _quiet(pool: ConnectionPool, entry: Entry, now: float) -> bool:
    """Whether a look will do, and finds nothing: what the adapters want at each hand-out."""
    return (
        pool._looks
        and now < entry.expires_at
        and now - entry.proved_at < pool._ping_after
        and sockets.look(entry.poll) == sockets.ALIVE
    )


def _seconds(timeout: float) -> float:
    if not options.is_number(timeout) or timeout == math.inf:
        raise ValueError(f"timeout={shown(timeout)} is not possible: it takes seconds, or None")
    return timeout


def _fit(
    pool: ConnectionPool, held: Held, started: float, deadline: float, *, queued: bool
) -> Ready:
    """Return this connection, or the first after it, that may be handed out."""
    now = monotonic()
    while now >= held[1].good_until and not usable.usable(pool, held, now, deadline):
        now = monotonic()
        if now > max(deadline, started + usable.LEAST):  # asking took all the time
            raise timed_out(pool, now - started, queued=queued)
        try:
            held = pool._queue.take()
        except IndexError:
            held = wait_for_connection(pool, started, deadline, again=True)
            queued = True
        now = monotonic()
    if queued:
        held[1].count_wait(now - started)
    if not pool._background and now >= pool._due:
        pool._due = pool._upkeep(now)
    return *held, now
