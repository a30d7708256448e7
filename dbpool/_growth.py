"""Growing: when a connect is wanted, who makes it, and what happens when it fails."""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from . import _ending, _handover, _socket, drivers
from ._entry import Entry
from ._keeper import Guard, keeper
from .drivers.base import IDLE, PERMANENT
from .errors import PoolError

if TYPE_CHECKING:
    from .pool import ConnectionPool

__all__ = ["Attempt", "Backoff", "Failure", "connect", "grow"]

logger = logging.getLogger("dbpool.pool")

PATIENCE = 0.025  # seconds the oldest waiter waits before a second connect joins the first
OVERRUN = 2.0  # seconds past connect_timeout (name resolution) after which one is given up
REPLACED = 2  # given-up connects that do not count against max_connecting
LIFETIME_SPREAD = 0.25
REPLACE_BEFORE = 1.0  # seconds; see replace_before


class Attempt:
    """A connect under way. It occupies a slot for as long as somebody holds it.

    The pool itself keeps only a weak reference, so a thread that dies of any exception at any
    point gives the slot back.
    """

    __slots__ = ("__weakref__", "overdue_at", "since")

    def __init__(self, now: float, connect_timeout: float) -> None:
        self.since = now
        self.overdue_at = now + connect_timeout + OVERRUN


class Failure:
    """Why connecting failed, as a waiter is told; each raises an exception of its own."""

    __slots__ = ("error", "reason")

    def __init__(self, error: BaseException, reason: str) -> None:
        self.error = error
        self.reason = reason


class Backoff:
    """Pauses between failed connects that grow from 0.1 s to 5 s, with jitter.

    The next pause is drawn between min(last, lower) and min(3 × last, highest), as Ecto's
    db_connection does: it grows, and processes that failed together do not return together.
    Written under the pool's lock.
    """

    lowest, highest = 0.1, 5.0

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """A connect succeeded."""
        self.retry_at = 0.0
        self.failing_since: float | None = None
        self.failure: Failure | None = None
        self.given_up = False
        self.reported = False  # to reconnect_failed, once per outage
        self._pause = 0.0

    def failed(self, now: float, failure: Failure) -> None:
        """Put the next attempt off."""
        if self._pause:
            lower = max(self.lowest, self.highest / 3)
            self._pause = random.uniform(
                min(self._pause, lower), min(3 * self._pause, self.highest)
            )
        else:
            self._pause = self.lowest * random.uniform(1.0, 1.5)
            self.failing_since = now
        self.retry_at = now + self._pause
        self.failure = failure

    @property
    def permanent(self) -> Failure | None:
        """The last failure, if it is one that no retry mends."""
        failure = self.failure
        return failure if failure is not None and failure.reason in PERMANENT else None


def grow(pool: ConnectionPool) -> None:
    """Start as many connects as are wanted and allowed; make them here if threads may not be."""
    while True:
        attempt = _reserve(pool, time.monotonic())
        if attempt is None:
            return
        if pool._background:
            thread = threading.Thread(
                target=_run,
                args=(weakref.ref(pool), attempt),
                name=f"dbpool-connect-{pool.name}",
                daemon=True,
            )
            try:
                thread.start()
                continue
            except RuntimeError:  # no more threads to be had: connect here
                pass
        _connect(pool, attempt)


def _reserve(pool: ConnectionPool, now: float) -> Attempt | None:
    """Return a slot to connect for, if one is wanted and free.

    Demand is looked at anew before each connect: what was served meanwhile asks for none.
    """
    with pool._lock:
        attempts = pool._attempts()
        if pool._state != "open" or now < pool._backoff.retry_at:
            return None
        if len(pool._entries) + len(attempts) >= pool.max_size:
            return None
        timely = sum(attempt.overdue_at > now for attempt in attempts)
        if timely + max(0, len(attempts) - timely - REPLACED) >= pool._max_connecting:
            return None
        waiting = len(pool._waiters)
        if waiting + _missing(pool, now) <= timely:
            return None
        # A burst over short work is over before a connect is: while connections circulate, one
        # connect at a time will do, unless the oldest caller has waited for some time already.
        if waiting and timely and pool._entries and _handover.oldest_wait(pool, now) < PATIENCE:
            return None
        attempt = Attempt(now, pool._connect_timeout)
        pool._connecting[id(attempt)] = weakref.ref(attempt)
        return attempt


def _missing(pool: ConnectionPool, now: float) -> int:
    """Return how many connections the minimum lacks, those that end in a moment included."""
    if pool.min_size == 0 or pool._backoff.given_up:
        return 0
    soon = now + replace_before(pool)
    return max(0, pool.min_size - sum(entry.expires_at > soon for entry in pool._entries))


def replace_before(pool: ConnectionPool) -> float:
    """Return how long before its end a connection of the minimum gets its successor."""
    # A tenth at most of what it lives: else a new one would be in want of a successor at once.
    return min(REPLACE_BEFORE, pool._max_lifetime / 10)


def _run(ref: weakref.ref[ConnectionPool], attempt: Attempt) -> None:
    """The body of a connector thread."""
    pool = ref()
    if pool is None:
        return
    _connect(pool, attempt)
    del attempt
    grow(pool)


def _connect(pool: ConnectionPool, attempt: Attempt) -> None:
    """Open one connection and offer it; errors end up with the waiters."""
    started = time.monotonic()
    conn: Any = None
    entry: Entry | None = None
    try:
        conn = connect(pool, f"dbpool:{pool.name}")
        _configure(pool, conn)
        entry = _admit(pool, attempt, conn, started)
    except BaseException as error:
        _failed(pool, attempt, error)
        if not isinstance(error, Exception):
            raise
    finally:
        if entry is None and conn is not None:
            pool._driver.close(conn)
    if entry is not None:
        _handover.offer(pool, (conn, entry))


def connect(pool: ConnectionPool, name: str, *, own_name: bool = False) -> Any:
    """Open a connection as the pool's are; it is not one of them yet, and not configured.

    Arguments: `name` on the server; `own_name`, whether it wins over one that the user has set.
    """
    conninfo, kwargs = pool._conninfo, pool._kwargs
    if callable(conninfo):
        conninfo = conninfo()
        if conninfo is None:  # what choose() takes for one that comes later
            raise TypeError("the conninfo callable returned None: it must return a string")
        conninfo = drivers.choose(conninfo, pool._driver)[1] or ""
    if callable(kwargs):
        kwargs = kwargs()
    if own_name and (option := getattr(pool._driver, "name_option", None)):
        kwargs = {**kwargs, option: name}
    return pool._driver.connect(conninfo, kwargs, timeout=pool._connect_timeout, name=name)


def _configure(pool: ConnectionPool, conn: Any) -> None:
    if pool._configure is None:
        return
    with Guard(pool._driver, conn, pool._connect_timeout):
        pool._configure(conn)
    status = pool._driver.transaction_status(conn)
    if status != IDLE:
        raise PoolError(
            f"configure left a connection of pool {pool.name!r} in a transaction (status "
            f"{status}): commit there, or set autocommit"
        )


def _admit(pool: ConnectionPool, attempt: Attempt, conn: Any, started: float) -> Entry | None:
    """Make the connection one of the pool's; None if it comes too late to be wanted."""
    now = time.monotonic()
    fd = pool._driver.fileno(conn)
    life = pool._max_lifetime * (1 - LIFETIME_SPREAD * random.random())
    entry = Entry(
        conn,
        keeper.inbox.put if pool._background else None,
        pool._ref,
        None if fd is None else _socket.poller(fd),
        now,
        now + life,
    )
    entry.attributes = pool._driver.attributes(conn)
    entry.good_until = min(now + pool._validate_after, entry.expires_at)
    _ending.find_lost(pool)  # a dropped connection may have had the id that this one has
    with pool._lock:
        full = len(pool._entries) >= pool.max_size  # resize came between
        if pool._state != "open" or now >= attempt.overdue_at or full:
            pool._connecting.pop(id(attempt), None)
            pool._totals.connects += 1
            return None
        pool._entries.add(entry)  # first the one, then the other: the sum must never fall
        pool._connecting.pop(id(attempt), None)
        pool._totals.connects += 1
        pool._totals.count_connect(now - started)
        pool._backoff.clear()
        pool._proved_at = now
        filled = len(pool._entries) >= pool.min_size
    pool._event("opened")
    if filled:
        _handover.tell_filling(pool, None)
    if pool._background:
        keeper.schedule(pool, now + 1.0)
    return entry


def _failed(pool: ConnectionPool, attempt: Attempt, error: BaseException) -> None:
    """Put the next attempt off, and tell those whom waiting cannot help."""
    now = time.monotonic()
    reason = pool._driver.reason(error)
    failure = Failure(error, reason)
    with pool._lock:
        pool._connecting.pop(id(attempt), None)
        pool._totals.connects += 1
        pool._totals.connect_errors += 1
        if not isinstance(error, Exception):
            return  # the thread was interrupted: that says nothing about the server
        pool._backoff.failed(now, failure)
        first = pool._backoff.failing_since == now
        give_up = now - (pool._backoff.failing_since or now) >= pool._reconnect_timeout
        report = give_up and not pool._backoff.reported
        pool._backoff.given_up = pool._backoff.reported = give_up
        retry_at = pool._backoff.retry_at
    # Once per outage; the driver's text names host and user, so it stays out of the log.
    if first:
        logger.warning("pool %r cannot connect: %s (%s)", pool.name, reason, type(error).__name__)
    if reason in PERMANENT:
        _handover.answer_all(pool, failure)
    if pool._background:
        keeper.schedule(pool, retry_at)
    if report and pool._reconnect_failed is not None:
        try:
            pool._reconnect_failed(pool)
        except Exception:
            logger.exception("pool %r: reconnect_failed raised", pool.name)
