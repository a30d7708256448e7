"""Whether an idle connection may be handed out, and what is done to those that may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._connect import failure, role
from .._connect.retire import retire
from .._runtime import sockets
from .._runtime.clock import monotonic
from .._runtime.time_limit import Guard
from ..drivers.base import IDLE
from ..errors import PoolError
from . import recheck
from .cleaning import tidy

if TYPE_CHECKING:
    from .._store.entry import Held
    from ..pool import ConnectionPool

__all__ = ["answers", "found_dead", "ping_or_retire", "take_idle", "usable"]

LEAST = 0.05  # seconds that the server is given for an answer, however little time is left


def usable(pool: ConnectionPool, held: Held, now: float, deadline: float) -> bool:
    """Return whether the connection (ours alone) is good; it is closed if it is not.

    The checks in the order of what they cost: lifetime, a look at the socket, a ping, `check`.
    """
    entry = held[1]
    try:
        if now >= entry.expires_at:
            retire(pool, held, entry.why)
            return False
        if pool._validate != "off":
            error: Exception | None = None
            seen = sockets.look(entry.poll)
            if seen == sockets.DEAD:
                error = PoolError("the server has closed it already")
            elif (
                seen == sockets.SUSPECT
                or pool._validate == "ping"
                or now - entry.proved_at >= pool._ping_after
            ):
                error = _ask(pool, held, min(pool._ping_timeout, max(deadline - now, LEAST)))
            if error is not None:
                # A pooler takes connections also while its server is away. Not where no new one
                # has to answer: there nothing would tell that they do again.
                if pool._validate == "ping":
                    failure.rejected(pool, entry, error, now)
                found_dead(pool, held)
                return False
        else:
            entry.proved_at = now  # nobody asks here, so nothing stays suspect
        if pool._check is not None and not _passes_check(pool, held, now, deadline):
            return False
    except BaseException:
        retire(pool, held, "broken")
        raise
    if pool._outage.checking:
        with pool._store.lock:
            pool._outage.connects_well()
    return True


def answers(pool: ConnectionPool, held: Held, seconds: float) -> bool:
    """Return whether the server answers a ping on this connection in time."""
    return _ask(pool, held, seconds) is None


def _ask(pool: ConnectionPool, held: Held, seconds: float) -> Exception | None:
    """Ping; return what speaks against lending this connection, without its frames."""
    conn, entry = held
    try:
        with Guard(pool, conn, seconds):
            pool._driver.ping(conn)
    except Exception as error:
        return error.with_traceback(None)
    pool._store.proved_at = entry.proved_at = monotonic()
    if pool._driver.transaction_status(conn) != IDLE:
        return PoolError("a ping left the connection in a state of no use")
    return None if role.fits(pool, conn) else PoolError("the server is read-only")


def ping_or_retire(pool: ConnectionPool, held: Held) -> None:
    """Ask the server on an idle connection that is ours; keep it or close it."""
    if answers(pool, held, pool._ping_timeout):
        pool._queue.offer(held)
        return
    with pool._store.lock:
        pool._store.counters.count_dead()
    retire(pool, held, "broken")


def _passes_check(pool: ConnectionPool, held: Held, now: float, deadline: float) -> bool:
    """Run the user's check; it may leave nothing behind but its verdict."""
    conn, entry = held
    left = max(deadline - monotonic(), LEAST)
    try:
        with Guard(pool, conn, min(pool._ping_timeout, left)):
            pool._check(conn)
        keep = tidy(pool, entry, conn)
        error: Exception = PoolError("the check left the connection in a state of no use")
    except Exception as raised:
        keep, error = False, raised
    if not keep:
        failure.rejected(pool, entry, error, now)
        with pool._store.lock:
            pool._store.counters.count_dead()
        retire(pool, held, "check_failed")
    return keep


def take_idle(pool: ConnectionPool) -> Held | None:
    """Take an idle connection that looks alive; None if there is none. Waits for nothing.

    For the pool's own use, such as a health query: it counts as nobody's, and goes back by
    `offer`, or into `found_dead`.
    """
    while True:
        try:
            held: Held = pool._queue.take()
        except IndexError:
            return None
        entry = held[1]
        if monotonic() >= entry.expires_at:
            retire(pool, held, entry.why)
        elif sockets.look(entry.poll) == sockets.DEAD:
            found_dead(pool, held)
        else:
            return held


def found_dead(pool: ConnectionPool, held: Held) -> None:
    """Close a dead connection; where one is dead others are, so have all idle ones looked at."""
    with pool._store.lock:
        pool._store.counters.count_dead()
    try:
        recheck.suspect(pool)
    finally:
        retire(pool, held, "broken")
