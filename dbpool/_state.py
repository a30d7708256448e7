"""Whether the server can be reached: ok, down or recovering; and how often it is tried meanwhile.

Only failed connects decide, never a query. While a pool is down what is open goes on serving, one
prober connects, and callers start nothing. Recovery begins with one connect at a time.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import weakref
from collections import deque
from time import time as wall_time  # for people; all else goes by `_clock`
from typing import TYPE_CHECKING, Any

from ._keeper import keeper
from .drivers.base import PERMANENT

if TYPE_CHECKING:
    from ._connecting import Failure
    from .pool import ConnectionPool

__all__ = ["DOWN", "OK", "RECOVERING", "Reach", "Server", "forget_servers"]

logger = logging.getLogger("dbpool.pool")

OK, DOWN, RECOVERING = "ok", "down", "recovering"

IN_A_ROW = 2  # failed connects after which a pool is down
PER_SECOND = 3  # connects to a server that is down, over all pools of the process
WITHIN = 1.02  # seconds: a little over one, for a thread may take its time from here to the connect
SPACING = WITHIN / PER_SECOND  # seconds between two of them where they fail at once
SLOWEST = 2.0  # seconds between two of them at most
TURN = 0.05  # seconds that a pool leaves to the one whose turn it is
FOR_A_BLIP = 0.5  # the part of down_wait that is left to one who had waited before the outage
TELL_EVERY = 30.0  # seconds between two lines in the log
FULL_FOR = (15.0, 25.0)  # seconds until a server without room for more is asked again

# The server, or the kernel in its place, has answered that it takes nobody.
_REFUSALS = frozenset(("connect_refused", "server_shutdown", "too_many_connections"))


class Server:
    """How often a server that is down is tried, by all pools of this process together."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards all of this; taken after a pool's, never before
        self._started: deque[float] = deque(maxlen=PER_SECOND)
        self._next_at = 0.0
        self._pause = 0.0
        # The pools that are down, in the order in which it is their turn; by id.
        self._down: dict[int, weakref.ref[ConnectionPool]] = {}

    def started(self, now: float) -> None:
        """A connect begins, whatever the state."""
        with self._lock:
            self._started.append(now)

    def due(self, pool: ConnectionPool) -> float:
        """Return when this pool may try again."""
        with self._lock:
            due = self._next_at
            if len(self._started) == PER_SECOND:
                due = max(due, self._started[0] + WITHIN)
            return due if next(iter(self._down), id(pool)) == id(pool) else due + TURN

    def claim(self, pool: ConnectionPool, now: float) -> bool:
        """Take the next attempt, if it is due."""
        with self._lock:
            if now < self.due(pool):
                return False
            # It goes to the end, and so does one that has missed its turn: closed, or given up.
            for key in {next(iter(self._down), id(pool)), id(pool)}:
                if (ref := self._down.pop(key, None)) is not None and ref() is not None:
                    self._down[key] = ref
            self._next_at = now + SPACING
            self._started.append(now)
            return True

    def failed(
        self, pool: ConnectionPool, now: float, since: float, *, answered: bool = False
    ) -> None:
        """Put the next attempt off: little if this one was answered or failed at once, else longer.

        From one beginning to the next: one that hung for longer than that has waited already.
        """
        with self._lock:
            known = self._down.get(id(pool))
            if known is None or known() is not pool:
                self._down[id(pool)] = weakref.ref(pool)
            soon = now + SPACING * random.uniform(0.9, 1.0)
            if answered or now - since < SPACING:
                self._pause = 0.0
                self._next_at = max(self._next_at, soon)
                return
            self._pause = min(max(2 * self._pause, SPACING), SLOWEST)
            self._next_at = max(soon, since + self._pause * random.uniform(0.75, 1.0))

    def leave(self, pool: ConnectionPool) -> None:
        """Leave the turns of those that are down."""
        with self._lock:
            self._down.pop(id(pool), None)

    def answered(self, pool: ConnectionPool) -> list[ConnectionPool]:
        """It takes connections again. Return the other pools that are down: they may try now."""
        with self._lock:
            self._pause = self._next_at = 0.0
            self._started.clear()
            self.leave(pool)
            return [other for ref in self._down.values() if (other := ref()) is not None]


_servers: weakref.WeakValueDictionary[Any, Server] = weakref.WeakValueDictionary()
_servers_lock = threading.RLock()  # guards `_servers`


def _server_at(address: Any) -> Server:
    mine = Server()
    with _servers_lock:
        return _servers.setdefault(address, mine)


def forget_servers() -> None:
    """Start anew in a forked child, where the old locks may be held for ever."""
    global _servers_lock
    _servers_lock = threading.RLock()
    _servers.clear()


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
        self._in_a_row = 0
        self._ramp: float = math.inf
        self._told_at = -math.inf
        self._address: Any = None
        self._others: list[ConnectionPool] = []  # to be told that the server has answered

    def found(self, pool: ConnectionPool, address: Any) -> None:
        """Share the server's pace with all pools that connect there."""
        if address != self._address:
            self.server.leave(pool)
            self._address = address
            self.server = _server_at(address)

    @property
    def silent(self) -> bool:
        """Whether it is down because nothing answers: a frozen server, or lost packets."""
        return self.name == DOWN and self.cause == "connect_timeout"

    def at_once(self, pool: ConnectionPool) -> float:
        """Return how many connects may be under way."""
        # Where all that was open has just died, one tells whether the server is there; two would
        # leave only one of the attempts that a second has for as long as it takes to recover.
        lost = not pool._entries and pool._doubted_at > pool._proved_at
        if lost or self.full or self.name == DOWN:
            return 1
        return min(pool._max_connecting, self._ramp)

    def room(self, pool: ConnectionPool, now: float) -> int:
        """Return how many connections the pool may have, as far as the server has room."""
        size = len(pool._entries)
        if size and now < self._full_until:
            return min(pool.max_size, max(size, self._limit))
        return pool.max_size

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
            with pool._lock:
                pool._backoff.retry_at = 0.0
            if pool._background:
                keeper.schedule(pool, 0.0)

    # -- what connects tell; each returns the line for the log, "" if there is nothing to say

    def connect_failed(
        self, pool: ConnectionPool, now: float, since: float, failure: Failure
    ) -> str:
        """Judge a failed connect; under the pool's lock, after its backoff has been told."""
        known = isinstance(failure.error, pool._driver.OperationalError)
        if not known or failure.reason in PERMANENT:
            return ""
        self._in_a_row += 1
        if self.name == RECOVERING:
            self._ramp = 1
        line = ""
        if self.name == DOWN:
            self.attempts += 1
        elif self._in_a_row >= IN_A_ROW or (failure.reason in _REFUSALS and not pool._entries):
            self.name = DOWN
            self.since = self._told_at = now
            self.attempts, self.refused = self._in_a_row, 0
            line = (
                f"pool {pool.name!r} is down, it cannot connect: {failure.reason} "
                f"({type(failure.error).__name__}); {len(pool._entries)} open"
            )
        if self.name == DOWN:
            self.cause = failure.reason
            # A refusal is an answer, however long a busy machine took over it.
            self.server.failed(pool, now, since, answered=failure.reason in _REFUSALS)
            pool._backoff.retry_at = self.server.due(pool)
        return line

    def is_full(self, pool: ConnectionPool, now: float) -> str:
        """Do with what is open: the server has no room for more (SQLSTATE 53300)."""
        first, self.full = not self.full, True
        self._limit = len(pool._entries)
        self._full_until = now + random.uniform(*FULL_FOR)
        return (
            f"pool {pool.name!r}: the server has no room for more connections; it works with "
            f"{self._limit} of {pool.max_size} until there is"
            if first
            else ""
        )

    def connected(self, pool: ConnectionPool, now: float) -> str:
        """Judge a connect that succeeded; under the pool's lock."""
        self._in_a_row = 0
        self.full, self._full_until = False, -math.inf
        if self.name == RECOVERING:
            self._ramp *= 2
            self.settle(self._ramp >= pool._max_connecting)
        if self.name != DOWN:
            return ""
        self.recover(pool)
        self._others = self.server.answered(pool)
        return (
            f"pool {pool.name!r} is up again after {now - self.since:.1f} s: "
            f"{self.attempts + 1} attempts, {self.refused} callers refused"
        )

    def recover(self, pool: ConnectionPool) -> None:
        """Begin with one connect at a time."""
        self.server.leave(pool)
        self.name, self._ramp, self._in_a_row = RECOVERING, 1, 0

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
