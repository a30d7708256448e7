"""Connecting: how one connection comes to be the pool's, and what happens when it does not."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .._runtime import host_probe, sockets
from .._runtime.clock import monotonic
from .._runtime.fork_gate import NoFork
from .._store.entry import Entry
from ..drivers.base import IDLE, UNKNOWN
from ..errors import PoolError
from . import close_returns, mistakes, role
from .replies import SILENCE

if TYPE_CHECKING:
    from .._runtime.runner import Runner
    from .._store.attempt import Attempt
    from .._store.handoff import Handoff
    from .._store.settings import Settings
    from .failure import Failures
    from .outage import Outage
    from .replies import Replies

__all__ = ["Connector"]

logger = logging.getLogger("dbpool.pool")

LIFETIME_SPREAD = 0.25


class Connector:
    """Makes connections the pool's. One per pool; each connect runs in a thread of its own.

    Arguments: `conninfo` and `kwargs`, as the pool's; `give_back`, what a connection's close()
    does instead (see `_connect.close_returns`), or None.
    """

    def __init__(
        self,
        queue: Handoff,
        outage: Outage,
        settings: Settings,
        runner: Runner,
        replies: Replies,
        failures: Failures,
        conninfo: str | Callable[[], str],
        kwargs: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        give_back: Callable[[Any], bool] | None,
    ) -> None:
        self.store, self.queue = queue.store, queue
        self.driver = queue.store.driver
        self.outage = outage
        self.settings = settings
        self.runner = runner
        self.replies = replies
        self.failures = failures
        self.address: Any = None  # of the last connect, as the driver has it
        self.home: Callable[[], Any] = lambda: None  # finds the lost ones, see `Entry`
        self._conninfo, self._kwargs = conninfo, kwargs
        self._give_back = give_back
        self._last_host: Any = None  # the one that served last, where there are several

    def make(self, attempt: Attempt) -> bool:
        """Open one connection and offer it; errors end up with the waiters. False if none came."""
        started = monotonic()
        attempt.made_by = get_ident()
        conn: Any = None
        entry: Entry | None = None
        try:
            conn = self.connect(f"dbpool:{self.settings.name}", attempt)
            self._check_role(conn)
            self._configure(attempt, conn)
            entry = self._admit(attempt, conn, started)
        except BaseException as error:
            self.failures.failed(attempt, error, conn)
            if not isinstance(error, Exception):
                raise
        finally:
            if entry is None and conn is not None:
                self.driver.close(conn)
        if entry is not None:
            try:
                self.queue.offer((conn, entry))
            finally:
                conn = None  # its borrower's alone
                with (
                    self.store.lock
                ):  # only now: till then its waiter queues, who asks for no other
                    self.store.attempts.pop(id(attempt), None)
            self._opened()
        return entry is not None

    def connect(self, name: str, attempt: Attempt, *, spare: bool = False) -> Any:
        """Open a connection as the pool's are; it is not one of them yet, and not configured.

        Arguments: `name` on the server; `attempt`, whose deadline follows the address, and which
        has the answer if connecting fails; `spare`, whether it is a health check's, which waits
        for nothing, and whose name wins over one that the user has set.
        """
        driver, settings = self.driver, self.settings
        try:
            conninfo, kwargs = mistakes.asked(driver, self._conninfo, self._kwargs, attempt)
            if spare and driver.name_option:
                kwargs = {**kwargs, driver.name_option: name}
            kwargs, where, seconds = driver.parameters(
                conninfo,
                kwargs,
                settings=settings.server,
                last_host=self._last_host,
                primary=settings.role == "primary",
                timeout=settings.connect_timeout,
                name=name,
            )
        except Exception as error:
            mistakes.before_connect(attempt, error)
            raise
        self.address = where
        if where is not None:
            self.outage.use_server((driver.name, where))
            if self.outage.silent and not spare:
                self._wait_for_answer(attempt, where)
        attempt.allow(seconds)
        failed: Exception | None = None
        started = monotonic()
        with NoFork():
            try:
                conn = driver.connect(conninfo, kwargs, timeout=seconds, name=name)
            except Exception as error:
                # Without the driver's frames, which hold the password.
                failed = error.with_traceback(None)
        if failed is not None:  # raised out of the handler: one of ours is to keep nothing of it
            took = monotonic() - started
            failed = mistakes.of_connect(driver, attempt, failed, conninfo, kwargs)
            if attempt.mistake is None:
                late = driver.timed_out(failed, took, conninfo, kwargs)

                def refusal() -> str | None:
                    with NoFork():
                        return driver.refusal(conninfo, kwargs)

                attempt.answer = self.replies.examine(failed, where, late, refusal)
            raise failed
        self._last_host = driver.host(conn)
        return conn

    def _wait_for_answer(self, attempt: Attempt, where: Any) -> None:
        """Return when the server's host answers; raise as a connect does that takes too long."""
        if not host_probe.answers(self.driver.endpoints(where), self.settings.connect_timeout):
            attempt.answer = SILENCE
            raise self.driver.OperationalError("timeout expired: nothing answers at that address")

    def _check_role(self, conn: Any) -> None:
        if not role.fits(self.driver, self.settings.role, conn):
            raise self.driver.OperationalError(
                "the server is read-only (a standby, or default_transaction_read_only is on), and "
                "the pool is declared as role='primary'"
            )

    def _configure(self, attempt: Attempt, conn: Any) -> None:
        configure = self.settings.configure
        if configure is None:
            return
        limit = self.runner.limit(self.driver, conn, self.settings.connect_timeout)
        try:
            with limit:
                mistakes.call(attempt, "configure", configure, conn)
        except Exception:
            if (
                limit.fired
            ):  # the deadline has cut it off: what it raises then is no mistake of its own
                attempt.in_callback = ""
            raise
        status = self.driver.transaction_status(conn)
        if status == IDLE:
            return
        attempt.in_callback = "configure"
        if status == UNKNOWN:
            raise PoolError(
                f"configure left a connection of pool {self.settings.name!r} closed, or its link "
                "was lost"
            )
        raise PoolError(
            f"configure left a connection of pool {self.settings.name!r} in a transaction (status "
            f"{status}): commit there, or set autocommit"
        )

    def _admit(self, attempt: Attempt, conn: Any, started: float) -> Entry | None:
        """Make the connection one of the pool's; None if it comes too late to be wanted."""
        now = monotonic()
        fd = self.driver.fileno(conn)
        life = self.settings.max_lifetime * (1 - LIFETIME_SPREAD * random.random())
        entry = Entry(
            conn,
            self.runner.lost,
            self.home,
            None if fd is None else sockets.poller(fd),
            now,
            now + life,
        )
        entry.attributes = self.driver.attributes(conn)
        if self._give_back is not None:
            close_returns.attach(self.driver, conn, self._give_back, attempt)
        entry.renew(now, self.settings.validate_after)
        self.store.drop_lost()  # a dropped connection may have had the id that this one has
        with self.store.lock:
            self.store.counters.count_connect(now - started)
            # Decided last: what a signal handler does after it (drain, resize) would not be seen.
            unwanted = attempt.unwanted
            if self.store.phase != "open":
                unwanted = "closed"
            elif now >= attempt.overdue_at:
                unwanted = "late"
            elif len(self.store.entries) >= self.store.max_size:  # resize came between
                unwanted = "excess"
            if unwanted:
                self.store.attempts.pop(id(attempt), None)
                self.store.counters.count_closed(unwanted)
                return None
            self.store.entries.add(entry)  # first the one, then the other: the sum must never fall
            attempt.arrived = True
            line = self.outage.connected(now)
            self.store.proved_at = now
        if line:
            logger.warning("%s", line)
        return entry

    def _opened(self) -> None:
        """See to what is due after a connect: logging, those who wait for the minimum, upkeep."""
        self.store.event("opened")
        if len(self.store.entries) >= self.store.min_size:
            self.queue.tell_filled(None)
        self.outage.tell_others()
        self.runner.wake(monotonic() + 1.0)
