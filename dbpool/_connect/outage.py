"""Whether the server can be reached: ok, down or recovering; and when it is tried next.

One machine, which does no I/O: it is told what connects have met with and what the store has, and
answers with decisions and with lines for the log.

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

A failure in recovery makes it one connect at a time again.

`retry_at` is when the next connect may begin:

    what happens           retry_at
    ---------------------  ----------------------------------------------------------------------
    a connect fails        now + a pause that grows from 0.1 s to 5 s, with jitter; while down, when
                           the server's turn comes, over all pools of the process
    a connect succeeds     0
    nothing is open        0, unless new connections fail the user's check
    any more
    a turn is not yet due  when it is
    a check failed before  one pause after each attempt, until one passes
    another pool is up     0: this one tries too
    `check`, `resume`      0
 `pause`, `resume` and `resize` are told
in `_upkeep.lifecycle`: the first stops connecting whatever the state, the second begins a recovery,
and so does the third where the pool has all that it may have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from time import time as wall_time  # for people; all else goes by `_runtime.clock`
from typing import TYPE_CHECKING, Any, NamedTuple

from .._store.attempt import CHECK_FAILED
from ..drivers.base import PERMANENT
from .server import Server, server_at

if TYPE_CHECKING:
    from .._store.attempt import Failure
    from .._store.inventory import Inventory
    from .server import Down

__all__ = ["DOWN", "OK", "RECOVERING", "STUCK", "Outage", "Told"]

OK, DOWN, RECOVERING = "ok", "down", "recovering"
STUCK = "connect_stuck"  # why a pool is down whose connects do not end

IN_A_ROW = 2  # failed connects after which a pool is down
FOR_A_BLIP = 0.5  # callers that waited before the outage began get at least this part of down_wait
TELL_EVERY = 30.0  # seconds between two lines in the log
FULL_FOR = (15.0, 25.0)  # seconds until a server without room for more is asked again

# The server, or the kernel in its place, has answered that it takes nobody.
_REFUSALS = frozenset(("connect_refused", "server_shutdown", "too_many_connections"))


class Told(NamedTuple):
    """What a failed connect amounts to."""

    line: str  # for the log; "" if there is nothing to say
    first: bool  # whether it is the first failure after a success
    gives_up: bool  # whether reconnect_failed is to be called


class Outage:
    """What one pool knows of its way to the server. Written under the pool's lock.

    Arguments: `name`, the pool's; `max_connecting`, `down_wait` and `reconnect_timeout` as the
    options have them; `wake`, called when the pool should try again at once.
    """

    lowest, highest = 0.1, 5.0  # seconds of a pause

    def __init__(
        self,
        name: str,
        max_connecting: int,
        down_wait: float,
        reconnect_timeout: float,
        wake: Callable[[], object],
    ) -> None:
        self.pool_name = name
        self._max_connecting = max_connecting
        self._down_wait = down_wait
        self._reconnect_timeout = reconnect_timeout
        self._wake = wake
        self.clear()

    def clear(self) -> None:
        """Know nothing; also in a forked child."""
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
        self.stuck = 0  # connects that do not end, and stand in the way of others
        self.told_stuck = 0  # how many of them the log knows of
        self.fresh_since = -math.inf  # connects begun before this say nothing any more
        self._in_a_row = 0
        self._silent = 0  # of these the last ones
        self._ramp: float = math.inf
        self._told_at = -math.inf
        self._address: Any = None
        self._others: list[Down] = []  # to be told that the server has answered
        self.connects_well()

    # -- when to try

    def connects_well(self) -> None:
        """Forget the failures: a connect succeeded."""
        self.retry_at = 0.0
        self.failing_since: float | None = None
        self.failure: Failure | None = None
        self.given_up = False  # for want of success since reconnect_timeout
        self.reported = False  # to reconnect_failed, once per outage
        self.pause_for = 0.0  # seconds, the last pause

    def put_off(self, now: float, failure: Failure) -> None:
        """Put the next attempt off.

        The next pause is drawn between min(last, lower) and min(3 x last, highest), as Ecto's
        db_connection does: it grows, and processes that failed together do not return together.
        """
        last = self.pause_for
        if last:
            lower = max(self.lowest, self.highest / 3)
            self.pause_for = random.uniform(min(last, lower), min(3 * last, self.highest))
        else:
            self.pause_for = self.lowest * random.uniform(1.0, 1.5)
            self.failing_since = now
        self.retry_at = now + self.pause_for
        self.failure = failure

    def emptied(self) -> None:
        """The last open connection has gone: who waited for that one waits for a connect now."""
        if self.failure is not None and not self.checking:
            self.retry_at = 0.0

    def try_now(self) -> None:
        """Have the pool try at once: another pool has found the server well."""
        self.retry_at = 0.0
        self._wake()

    def try_anew(self, now: float) -> None:
        """Try at once, whatever was given up and however many connects hang."""
        self.given_up = False
        self.retry_at = 0.0
        self.fresh_since = now

    def asked(self) -> None:
        """Go on connecting if that was given up: somebody wants a connection."""
        self.given_up = False

    @property
    def checking(self) -> bool:
        """Whether the last failure is a new connection's that did not pass the user's check."""
        return self.failure is not None and self.failure.reason == CHECK_FAILED

    @property
    def permanent(self) -> Failure | None:
        """The last failure, if it is one that no retry mends."""
        failure = self.failure
        return failure if failure is not None and failure.reason in PERMANENT else None

    def begins(self, now: float) -> bool:
        """Note that a connect begins now. False if it is not this pool's turn yet."""
        if self.name == DOWN:
            if not self.server.claim(self, now):
                self.retry_at = self.server.due(self)
                return False
        else:
            self.server.started(now)
        if self.checking:
            self.retry_at = now + self.pause_for  # one at a time, until one passes
        return True

    # -- how many, and for how long

    def use_server(self, address: Any) -> None:
        """Share the server's pace with all pools that connect there."""
        if address != self._address:
            self.server.leave(self)
            self._address = address
            self.server = server_at(address)

    @property
    def silent(self) -> bool:
        """Whether it is down because nothing answers: a frozen server, or lost packets."""
        return self.name == DOWN and self.cause == "connect_timeout"

    def parallel_connects(self, store: Inventory) -> float:
        """Return how many connects may be under way."""
        # Where all that was open has just died, one tells whether the server is there; two would
        # leave only one of the attempts that a second has for as long as it takes to recover.
        lost = not store.entries and store.doubted_at > store.proved_at
        if lost or self.full or self.name == DOWN:
            return 1
        return min(self._max_connecting, self._ramp)

    def capacity(self, store: Inventory, now: float) -> int:
        """Return how many connections the pool may have, as far as the server has room."""
        size = len(store.entries)
        if size and now < self._full_until:
            return min(store.max_size, max(size, self._limit))
        return store.max_size

    def gives_up_at(self, since: float) -> float:
        """Return the moment at which one that waits `since` is told that the pool is down."""
        if self.name != DOWN or self.paused:
            return math.inf
        wait = self._down_wait
        return max(since + wait, self.since + wait * FOR_A_BLIP)

    # -- what connects tell

    def failed(
        self,
        store: Inventory,
        now: float,
        since: float,
        failure: Failure,
        *,
        alive: bool,
        known: bool,
    ) -> Told:
        """Judge a failed connect.

        Arguments: `since`, when it began; `alive`, whether a connection is open that has not been
        seen dead; `known`, whether the error is one of the server's.
        """
        if failure.reason == "too_many_connections" and alive:
            line = self._is_full(store, now)
        else:
            self.put_off(now, failure)
            line = self._count_failure(store, now, since, failure, alive, known)
        gives_up = now - (self.failing_since or now) >= self._reconnect_timeout
        told = Told(line, self.failing_since == now, gives_up and not self.reported)
        self.given_up = self.reported = gives_up
        return told

    def _count_failure(
        self,
        store: Inventory,
        now: float,
        since: float,
        failure: Failure,
        alive: bool,
        known: bool,
    ) -> str:
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
            if alive and not failure.silent and self.since < store.proved_at > store.doubted_at:
                return self._answers(store, failure.reason)
        elif self._silent >= IN_A_ROW or (not alive and (refused or self._in_a_row >= IN_A_ROW)):
            line = self._go_down(store, now, failure.reason, type(failure.error).__name__)
            self.attempts = self._in_a_row
        if self.name == DOWN:
            self.cause = failure.reason
            # A refusal is an answer, however long a busy machine took over it. Words that are not
            # understood may be about a login, which servers count.
            self.server.failed(self, now, since, answered=refused, unclear=failure.unclear)
            self.retry_at = self.server.due(self)
        return line

    def _go_down(self, store: Inventory, now: float, cause: str, error: str) -> str:
        self.name, self.cause = DOWN, cause
        self.since = self._told_at = now
        self.attempts = self.refused = 0
        return (
            f"pool {self.pool_name!r} is down, it cannot connect: {cause} ({error}); "
            f"{len(store.entries)} open"
        )

    def _answers(self, store: Inventory, reason: str) -> str:
        """End an outage in which the server has come back, and takes no new connection."""
        self.recover()
        return (
            f"pool {self.pool_name!r}: the server answers again, but a new connection is refused "
            f"({reason}); it works with the {len(store.entries)} that are open"
        )

    def _is_full(self, store: Inventory, now: float) -> str:
        """Do with what is open: the server has no room for more (SQLSTATE 53300)."""
        first, self.full = not self.full, True
        self._limit = len(store.entries)
        self._full_until = now + random.uniform(*FULL_FOR)
        if self.name == DOWN and self.since < store.proved_at > store.doubted_at:
            self.recover()
        return (
            f"pool {self.pool_name!r}: the server has no room for more connections; it works with "
            f"{self._limit} of {store.max_size} until there is"
            if first
            else ""
        )

    def connects_stuck(self, store: Inventory, now: float, alive: bool) -> str:
        """Go down where connects do not end and nothing else can serve; return a line to log."""
        if alive or self.name == DOWN or self.paused:
            return ""
        return self._go_down(store, now, STUCK, f"{self.stuck} connects do not end")

    def connected(self, now: float) -> str:
        """Judge a connect that succeeded; return a line for the log."""
        if not self.checking:  # else it has yet to pass the check that others failed
            self.connects_well()
        self._in_a_row = self._silent = 0
        self.full, self._full_until = False, -math.inf
        hung, self.told_stuck = self.told_stuck, 0
        self.stuck, self.fresh_since = 0, now
        if self.name == RECOVERING:
            self._ramp *= 2
            self.finish_recovery(self._ramp >= self._max_connecting)
        if self.name != DOWN:
            return (
                f"pool {self.pool_name!r} connects again; {hung} connects that were given up "
                "still hang"
                if hung
                else ""
            )
        self.recover()
        self._others = self.server.answered(self)
        return (
            f"pool {self.pool_name!r} is up again after {now - self.since:.1f} s: "
            f"{self.attempts + 1} attempts, {self.refused} callers refused"
        )

    def tell_others(self) -> None:
        """Have the other pools that are down at this server try now; not under a pool's lock."""
        others, self._others = self._others, []
        for other in others:
            other.try_now()

    # -- recovery

    def recover(self) -> None:
        """Begin with one connect at a time."""
        self.server.leave(self)
        self.name, self._ramp = RECOVERING, 1
        self._in_a_row = self._silent = 0

    def resume(self) -> None:
        """Begin anew, with no failure known and one connect at a time."""
        self.recover()
        self.connects_well()

    def finish_recovery(self, enough: bool) -> None:
        """All is well once the ramp has reached its end, or nobody wants more."""
        if self.name == RECOVERING and enough:
            self.name, self._ramp = OK, math.inf

    # -- what people are told

    def reminder(self, now: float) -> str:
        """Return a line for the log if one is due again."""
        if self.name != DOWN or now < self._told_at + TELL_EVERY:
            return ""
        self._told_at = now
        return (
            f"pool {self.pool_name!r} has been down for {now - self.since:.0f} s: "
            f"{self.attempts} attempts, {self.refused} callers refused"
        )

    @property
    def reminder_at(self) -> float:
        """When `reminder` has something to say again."""
        return self._told_at + TELL_EVERY if self.name == DOWN else math.inf

    def fill_error(self, error: Any, now: float) -> None:
        """Give a caller's `PoolDown` its particulars, and count the caller."""
        self.refused += 1
        error.since = wall_time() - (now - self.since)
        error.attempts = self.attempts
        error.next_attempt = max(0.0, self.retry_at - now)
        error.cause = self.cause
