"""How a caller gets a connection where the one on top of the idle ones will not simply do.

`ConnectionPool.getconn` hands out by itself what it may hand out unseen. Here is the rest: none is
idle, or the one that was is due for a look, a ping, a check or its end.
"""

from __future__ import annotations

import math
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import _socket, _validation, options
from ._deadline import seconds_left
from ._handover import offer
from ._refusal import timed_out
from ._waiting import wait_for_connection

if TYPE_CHECKING:
    from ._entry import Entry, Held
    from .pool import ConnectionPool

__all__ = ["acquire", "look_again"]


def acquire(pool: ConnectionPool, timeout: float | None) -> Any:
    """Queue for a connection, since none is idle. Arguments and errors as `getconn` has them."""
    started = monotonic()
    deadline = started + _seconds(pool, timeout)
    held = wait_for_connection(pool, started, deadline)
    now = monotonic()
    entry = held[1]
    if pool._background and (now < entry.good_until or _quiet(pool, entry, now)):
        entry.count_wait(now - started)  # the ordinary case: it has just come back
        return _lend(pool, held, now)
    return _fit(pool, held, started, deadline, queued=True)


def look_again(pool: ConnectionPool, held: Held, now: float, timeout: float | None) -> Any:
    """Lend this idle connection, which is ours alone, if it is good; else get another one."""
    if timeout is None and _quiet(pool, held[1], now):
        return _lend(pool, held, now)
    try:
        deadline = now + _seconds(pool, timeout)
    except ValueError:  # looked at only now, since most calls need none
        offer(pool, held)
        raise
    return _fit(pool, held, now, deadline, queued=False)


def _lend(pool: ConnectionPool, held: Held, now: float) -> Any:
    """Do what `getconn` does where it need not wait."""
    conn, entry = held
    entry.since = now
    entry.uses += 1.0
    pool._in_use[entry.key] = entry
    entry.holder = get_ident()
    return conn


def _quiet(pool: ConnectionPool, entry: Entry, now: float) -> bool:
    """Whether a look will do, and finds nothing: what the adapters want at each hand-out."""
    return (
        pool._looks
        and now < entry.expires_at
        and now - entry.proved_at < pool._ping_after
        and _socket.look(entry.poll) == _socket.ALIVE
    )


def _seconds(pool: ConnectionPool, timeout: float | None) -> float:
    if timeout is None:
        timeout = pool.timeout
    elif not options.is_number(timeout) or timeout == math.inf:
        raise ValueError(f"timeout={timeout!r} is not possible: it takes seconds, or None")
    left = seconds_left()
    return timeout if timeout < left else left


def _fit(pool: ConnectionPool, held: Held, started: float, deadline: float, *, queued: bool) -> Any:
    """Lend this connection, or the first after it, that may be handed out."""
    now = monotonic()
    while now >= held[1].good_until and not _validation.usable(pool, held, now, deadline):
        now = monotonic()
        if now > max(deadline, started + _validation.LEAST):  # asking took all the time
            raise timed_out(pool, now - started, queued=queued)
        try:
            held = pool._take()
        except IndexError:
            held = wait_for_connection(pool, started, deadline, again=True)
            queued = True
        now = monotonic()
    if queued:
        held[1].count_wait(now - started)
    if not pool._background and now >= pool._due:
        pool._due = pool._upkeep(now)
    return _lend(pool, held, now)
