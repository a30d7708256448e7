"""Whether the server can be reached: ok, down or recovering; and how often it is tried meanwhile.

Only failed connects decide, never a query. While a pool is down what is open goes on serving, one
prober connects, and callers start nothing. Recovery begins with one connect at a time.

Answer or silence decides. A connect is answered by whatever comes back: a refusal by the server or
a pooler in any words, a port where nothing listens, a name that does not resolve. That says nothing
of the connections that are open, so callers go on waiting for those. Silence says that the way to
the server is cut, for those too. `_connect.replies` tells the two apart, and which connections are
alive: open, and not seen dead.

    a connect              ok, recovering                   down
    ---------------------  -------------------------------  ------------------------------------
    succeeds               recovering: twice as many at     recovering, one at a time
                           once; at the end of the ramp ok
    is met with silence    the second in a row: down        stays; tried ever less often
    is answered, and none  refused: down; else the second   stays; tried three times a second
    is alive               failure in a row: down
    is answered, and one   stays; callers wait for it       recovering, if one has done a round
    is alive                                                trip since the outage began
    is refused for good    stays; where none is alive the   stays
    (password, database)   callers are told at once
    fails in a callback    stays                            stays; ok if only stuck connects had
    or a setting                                            made it down
    ends never (`_connect.stuck`)  none is alive, and two are       stays
                           stuck: down

A failure in recovery makes it one connect at a time again. `pause`, `resume` and `resize` are told
in `_upkeep.lifecycle`: the first stops connecting whatever the state, the second begins a recovery,
and so does the third where the pool has all that it may have.
"""

from __future__ import annotations

import logging
import math
import random
from time import time as wall_time  # for people; all else goes by `_runtime.clock`
from typing import TYPE_CHECKING, Any

from .._runtime.scheduler import keeper
from ..drivers.base import PERMANENT
from .server import Server, server_at

if TYPE_CHECKING:
    from .._store.attempt import Answer
    from ..pool import ConnectionPool
    from .failure import Failure

__all__ = ["DOWN", "OK", "RECOVERING", "STUCK", "Reach"]

logger = logging.getLogger("dbpool.pool")

OK, DOWN, RECOVERING = "ok", "down", "recovering"
STUCK = "connect_stuck"  # why a pool is down whose connects do not end

IN_A_ROW = 2  # failed connects after which a pool is down
FOR_A_BLIP = 0.5  # the part of down_wait that is left to one who had waited before the outage
TELL_EVERY = 30.0  # seconds between two lines in the log
FULL_FOR = (15.0, 25.0)  # seconds until a server without room for more is asked again

# The server, or the kernel in its place, has answered that it takes nobody.
_REFUSALS = frozenset(("connect_refused", "server_shutdown", "too_many_connections"))


class Reach:
    """What one pool knows of its way to the server. Written under the pool's lock."""

    def __init__(self) -> None:
        self.name = OK
        self.paused = False
        self.server = Server()
        self.since = -math.inf  # of the outage
        self.attempts = 0  # in it
        self.cause = ""  # of it, or of its last attempt: a word of drivers.base.REASONS
        self.refused = 0  # callers, in it
        self.full = False  # whether the server had no room for more when last asked
        self._full_until = -math.inf
        self._limit = 0
        self.words: dict[int, Answer] = {}  # what refusals mean, by the hash of their texts
        self.stuck = 0  # connects that do not end, and stand in the way of others
        self.told_stuck = 0  # how many of them the log knows of
        self.fresh_since = -math.inf  # what began before says nothing any more; see _stuck
        self._in_a_row = 0
        self._silent = 0  # of these the last ones
        self._ramp: float = math.inf
        self._told_at = -math.inf
        self._address: Any = None
        self._others: list[ConnectionPool] = []  # to be told that the server has answered

    def found(self, pool: ConnectionPool, address: Any) -> None:
        """Share the server's pace with all pools that connect there."""
        if address != self._address:
            self.server.leave(pool)
            self._address = address
            self.server = server_at(address)

    @property
    def silent(self) -> bool:
        """Whether it is down because nothing answers: a frozen server, or lost packets."""
        return self.name == DOWN and self.cause == "connect_timeout"

    def at_once(self, pool: ConnectionPool) -> float:
        """Return how many connects may be under way."""
        store = pool._store
        # Where all that was open has just died, one tells whether the server is there; two would
        # leave only one of the attempts that a second has for as long as it takes to recover.
        lost = not store.entries and store.doubted_at > store.proved_at
        if lost or self.full or self.name == DOWN:
            return 1
        return min(pool._max_connecting, self._ramp)

    def room(self, pool: ConnectionPool, now: float) -> int:
        """Return how many connections the pool may have, as far as the server has room."""
        store = pool._store
        size = len(store.entries)
        if size and now < self._full_until:
            return min(store.max_size, max(size, self._limit))
        return store.max_size

    def patience(self, pool: ConnectionPool, since: float) -> float:
        """Return the moment at which one that waits `since` is told that the pool is down."""
        if self.name != DOWN or self.paused:
            return math.inf
        wait = pool._down_wait
        return max(since + wait, self.since + wait * FOR_A_BLIP)

    def tell_others(self) -> None:
        """Have the other pools that are down at this server try now; not under a pool's lock."""
        others, self._others = self._others, []
        for pool in others:
            with pool._store.lock:
                pool._backoff.retry_at = 0.0
            if pool._background:
                keeper.schedule(pool, 0.0)

    # -- what connects tell; each returns the line for the log, "" if there is nothing to say

    def connect_failed(
        self, pool: ConnectionPool, now: float, since: float, failure: Failure, alive: bool
    ) -> str:
        """Judge a failed connect; under the pool's lock, after its backoff has been told.

        Arguments: `since`, when it began; `alive`, whether a connection is open that has not been
        seen dead.
        """
        known = isinstance(failure.error, pool._driver.OperationalError)
        if not known or failure.reason in PERMANENT:
            if self.name == DOWN and self.cause == STUCK:
                self.name = OK
            return ""
        self._in_a_row += 1
        self._silent = self._silent + 1 if failure.silent else 0
        if self.name == RECOVERING:
            self._ramp = 1
        line = ""
        refused = failure.reason in _REFUSALS
        if self.name == DOWN:
            self.attempts += 1
            if (
                alive
                and not failure.silent
                and self.since < pool._store.proved_at > pool._store.doubted_at
            ):
                return self._answers(pool, failure.reason)
        elif self._silent >= IN_A_ROW or (not alive and (refused or self._in_a_row >= IN_A_ROW)):
            line = self._go_down(pool, now, failure.reason, type(failure.error).__name__)
            self.attempts = self._in_a_row
        if self.name == DOWN:
            self.cause = failure.reason
            # A refusal is an answer, however long a busy machine took over it. Words that are not
            # understood may be about a login, which servers count.
            self.server.failed(pool, now, since, answered=refused, unclear=failure.unclear)
            pool._backoff.retry_at = self.server.due(pool)
        return line

    def _go_down(self, pool: ConnectionPool, now: float, cause: str, error: str) -> str:
        self.name, self.cause = DOWN, cause
        self.since = self._told_at = now
        self.attempts = self.refused = 0
        return (
            f"pool {pool.name!r} is down, it cannot connect: {cause} ({error}); "
            f"{len(pool._store.entries)} open"
        )

    def _answers(self, pool: ConnectionPool, reason: str) -> str:
        """End an outage in which the server has come back, and takes no new connection."""
        self.recover(pool)
        return (
            f"pool {pool.name!r}: the server answers again, but a new connection is refused "
            f"({reason}); it works with the {len(pool._store.entries)} that are open"
        )

    def connects_stuck(self, pool: ConnectionPool, now: float, alive: bool) -> str:
        """Go down where connects do not end and nothing else can serve; under the lock."""
        if alive or self.name == DOWN or self.paused:
            return ""
        return self._go_down(pool, now, STUCK, f"{self.stuck} connects do not end")

    def is_full(self, pool: ConnectionPool, now: float) -> str:
        """Do with what is open: the server has no room for more (SQLSTATE 53300)."""
        store = pool._store
        first, self.full = not self.full, True
        self._limit = len(store.entries)
        self._full_until = now + random.uniform(*FULL_FOR)
        if self.name == DOWN and self.since < store.proved_at > store.doubted_at:
            self.recover(pool)
        return (
            f"pool {pool.name!r}: the server has no room for more connections; it works with "
            f"{self._limit} of {store.max_size} until there is"
            if first
            else ""
        )

    def connected(self, pool: ConnectionPool, now: float) -> str:
        """Judge a connect that succeeded; under the pool's lock."""
        self._in_a_row = self._silent = 0
        self.full, self._full_until = False, -math.inf
        hung, self.told_stuck = self.told_stuck, 0
        self.stuck, self.fresh_since = 0, now
        if self.name == RECOVERING:
            self._ramp *= 2
            self.settle(self._ramp >= pool._max_connecting)
        if self.name != DOWN:
            return (
                f"pool {pool.name!r} connects again; {hung} connects that were given up still hang"
                if hung
                else ""
            )
        self.recover(pool)
        self._others = self.server.answered(pool)
        return (
            f"pool {pool.name!r} is up again after {now - self.since:.1f} s: "
            f"{self.attempts + 1} attempts, {self.refused} callers refused"
        )

    def recover(self, pool: ConnectionPool) -> None:
        """Begin with one connect at a time."""
        self.server.leave(pool)
        self.name, self._ramp = RECOVERING, 1
        self._in_a_row = self._silent = 0

    def settle(self, enough: bool) -> None:
        """All is well once the ramp has reached its end, or nobody wants more."""
        if self.name == RECOVERING and enough:
            self.name, self._ramp = OK, math.inf

    def still(self, pool: ConnectionPool, now: float) -> str:
        """Return a line for the log if one is due again."""
        if self.name != DOWN or now < self._told_at + TELL_EVERY:
            return ""
        self._told_at = now
        return (
            f"pool {pool.name!r} has been down for {now - self.since:.0f} s: "
            f"{self.attempts} attempts, {self.refused} callers refused"
        )

    def tell(self, error: Any, now: float, retry_at: float) -> None:
        """Give a caller's `PoolDown` its particulars, and count the caller; under the lock."""
        self.refused += 1
        error.since = wall_time() - (now - self.since)
        error.attempts = self.attempts
        error.next_attempt = max(0.0, retry_at - now)
        error.cause = self.cause

    @property
    def tell_at(self) -> float:
        """When `still` has something to say again."""
        return self._told_at + TELL_EVERY if self.name == DOWN else math.inf
