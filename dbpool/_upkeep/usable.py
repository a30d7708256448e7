"""Whether an idle connection may be handed out, and what is done to those that may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._connect import role
from .._runtime import sockets
from .._runtime.clock import monotonic
from ..drivers.base import IDLE
from ..errors import PoolError

if TYPE_CHECKING:
    from .._connect.failure import Failures
    from .._store.entry import Held
    from .cleaning import Cleaner
    from .sweep import Sweep

__all__ = ["MIN_ASK", "Inspector"]

MIN_ASK = 0.05  # seconds that the server is given for an answer, however little time is left


class Inspector:
    """Decides which idle connections of one pool may be lent. Any thread may use it."""

    def __init__(self, sweep: Sweep, cleaner: Cleaner, failures: Failures) -> None:
        self.sweep = sweep
        self.growth = sweep.growth
        self.store, self.queue = sweep.store, sweep.queue
        self.outage = sweep.outage
        self.settings = sweep.settings
        self.runner = sweep.runner
        self.driver = sweep.store.driver
        self._cleaner = cleaner
        self._failures = failures

    def is_usable(self, held: Held, now: float, deadline: float) -> bool:
        """Return whether the connection (ours alone) is good; it is closed if it is not.

        The checks in the order of what they cost: lifetime, a look at the socket, a ping, `check`.
        """
        entry = held[1]
        try:
            if now >= entry.expires_at:
                self.growth.retire(held, entry.why)
                return False
            if self.settings.validate != "off":
                error: Exception | None = None
                seen = sockets.look(entry.poll)
                if seen == sockets.DEAD:
                    error = PoolError("the server has closed it already")
                elif (
                    seen == sockets.SUSPECT
                    or self.settings.validate == "ping"
                    or now - entry.proved_at >= self.settings.ping_after
                ):
                    error = self._ask(
                        held, min(self.settings.ping_timeout, max(deadline - now, MIN_ASK))
                    )
                if error is not None:
                    # A pooler takes connections also while its server is away. Not where no new one
                    # has to answer: there nothing would tell that they do again.
                    if self.settings.validate == "ping":
                        self._failures.rejected(entry, error, now)
                    self.found_dead(held)
                    return False
            else:
                entry.proved_at = now  # nobody asks here, so nothing stays suspect
            if self.settings.check is not None and not self._passes_check(held, now, deadline):
                return False
        except BaseException:
            self.growth.retire(held, "broken")
            raise
        if self.outage.checking:
            with self.store.lock:
                self.outage.connects_well()
        return True

    def answers(self, held: Held, seconds: float) -> bool:
        """Return whether the server answers a ping on this connection in time."""
        return self._ask(held, seconds) is None

    def _ask(self, held: Held, seconds: float) -> Exception | None:
        """Ping; return what speaks against lending this connection, without its frames."""
        conn, entry = held
        try:
            with self.runner.limit(self.driver, conn, seconds):
                self.driver.ping(conn)
        except Exception as error:
            return error.with_traceback(None)
        self.store.proved_at = entry.proved_at = monotonic()
        if self.store.driver.transaction_status(conn) != IDLE:
            return PoolError("a ping left the connection in a state of no use")
        return (
            None
            if role.fits(self.driver, self.settings.role, conn)
            else PoolError("the server is read-only")
        )

    def ping_or_retire(self, held: Held) -> None:
        """Ask the server on an idle connection that is ours; keep it or close it."""
        if self.answers(held, self.settings.ping_timeout):
            self.queue.offer(held)
            return
        with self.store.lock:
            self.store.counters.count_dead()
        self.growth.retire(held, "broken")

    def _passes_check(self, held: Held, now: float, deadline: float) -> bool:
        """Run the user's check; it may leave nothing behind but its verdict."""
        conn, entry = held
        check = self.settings.check
        assert check is not None
        left = max(deadline - monotonic(), MIN_ASK)
        try:
            with self.runner.limit(self.driver, conn, min(self.settings.ping_timeout, left)):
                check(conn)
            keep = self._cleaner.restore(entry, conn)
            error: Exception = PoolError("the check left the connection in a state of no use")
        except Exception as raised:
            keep, error = False, raised
        if not keep:
            self._failures.rejected(entry, error, now)
            with self.store.lock:
                self.store.counters.count_dead()
            self.growth.retire(held, "check_failed")
        return keep

    def take_idle(self) -> Held | None:
        """Take an idle connection that looks alive; None if there is none. Waits for nothing.

        For the pool's own use, such as a health query: it counts as nobody's, and goes back by
        `offer`, or into `found_dead`.
        """
        while True:
            try:
                held: Held = self.queue.take()
            except IndexError:
                return None
            entry = held[1]
            if monotonic() >= entry.expires_at:
                self.growth.retire(held, entry.why)
            elif sockets.look(entry.poll) == sockets.DEAD:
                self.found_dead(held)
            else:
                return held

    def found_dead(self, held: Held) -> None:
        """Close a dead connection. Where one is dead others are: have all idle ones looked at."""
        with self.store.lock:
            self.store.counters.count_dead()
        try:
            self.sweep.recheck_all()
        finally:
            self.growth.retire(held, "broken")
