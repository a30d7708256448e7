"""Connecting: how one connection comes to be the pool's, and what happens when it does not."""

from __future__ import annotations

import logging
import math
import random
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .._runtime import host_probe, sockets
from .._runtime.clock import monotonic
from .._runtime.fork_gate import NoFork
from .._runtime.scheduler import keeper
from .._runtime.time_limit import Guard
from .._store.entry import Entry
from ..drivers.base import IDLE, UNKNOWN
from ..errors import PoolError
from . import close_returns, failure, mistakes, replies, role

if TYPE_CHECKING:
    from .._store.attempt import Attempt
    from ..pool import ConnectionPool

__all__ = ["connect", "make"]

logger = logging.getLogger("dbpool.pool")

LIFETIME_SPREAD = 0.25


def make(pool: ConnectionPool, attempt: Attempt) -> bool:
    """Open one connection and offer it; errors end up with the waiters. False if none came."""
    started = monotonic()
    attempt.made_by = get_ident()
    conn: Any = None
    entry: Entry | None = None
    try:
        conn = connect(pool, f"dbpool:{pool.name}", attempt)
        _check_role(pool, conn)
        _configure(pool, attempt, conn)
        entry = _admit(pool, attempt, conn, started)
    except BaseException as error:
        failure.failed(pool, attempt, error, conn)
        if not isinstance(error, Exception):
            raise
    finally:
        if entry is None and conn is not None:
            pool._driver.close(conn)
    if entry is not None:
        try:
            pool._queue.offer((conn, entry))
        finally:
            conn = None  # its borrower's alone
            with pool._store.lock:  # only now: till then its waiter queues, who asks for no other
                pool._store.attempts.pop(id(attempt), None)
        _opened(pool)
    return entry is not None


def connect(pool: ConnectionPool, name: str, attempt: Attempt, *, spare: bool = False) -> Any:
    """Open a connection as the pool's are; it is not one of them yet, and not configured.

    Arguments: `name` on the server; `attempt`, whose deadline follows the address, and which has
    the answer if connecting fails; `spare`, whether it is a health check's, which waits for
    nothing, and whose name wins over one that the user has set.
    """
    driver = pool._driver
    try:
        conninfo, kwargs = mistakes.asked(pool, attempt)
        if spare and driver.name_option:
            kwargs = {**kwargs, driver.name_option: name}
        kwargs, where, seconds = driver.parameters(
            conninfo,
            kwargs,
            settings=pool._settings,
            last_host=pool._last_host,
            primary=pool.role == "primary",
            timeout=pool._connect_timeout,
            name=name,
        )
    except Exception as error:
        mistakes.before_connect(attempt, error)
        raise
    pool._address = where
    if where is not None:
        pool._outage.use_server((driver.name, where))
        if pool._outage.silent and not spare:
            _wait_for_answer(pool, attempt, where)
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
        failed = mistakes.of_connect(pool, attempt, failed, conninfo, kwargs)
        if attempt.mistake is None:
            late = driver.timed_out(failed, took, conninfo, kwargs)

            def refusal() -> str | None:
                with NoFork():
                    return driver.refusal(conninfo, kwargs)

            attempt.answer = replies.examine(pool, failed, where, late, refusal)
        raise failed
    pool._last_host = driver.host(conn)
    return conn


def _wait_for_answer(pool: ConnectionPool, attempt: Attempt, where: Any) -> None:
    """Return when the server's host answers; raise as a connect does that takes too long."""
    if not host_probe.answers(pool._driver.endpoints(where), pool._connect_timeout):
        attempt.answer = replies.SILENCE
        raise pool._driver.OperationalError("timeout expired: nothing answers at that address")


def _check_role(pool: ConnectionPool, conn: Any) -> None:
    if not role.fits(pool, conn):
        raise pool._driver.OperationalError(
            "the server is read-only (a standby, or default_transaction_read_only is on), and the "
            "pool is declared as role='primary'"
        )


def _configure(pool: ConnectionPool, attempt: Attempt, conn: Any) -> None:
    if pool._configure is None:
        return
    limit = Guard(pool, conn, pool._connect_timeout)
    try:
        with limit:
            mistakes.call(attempt, "configure", pool._configure, conn)
    except Exception:
        if limit.fired:  # the deadline has cut it off: what it raises then is no mistake of its own
            attempt.in_callback = ""
        raise
    status = pool._driver.transaction_status(conn)
    if status == IDLE:
        return
    attempt.in_callback = "configure"
    if status == UNKNOWN:
        raise PoolError(
            f"configure left a connection of pool {pool.name!r} closed, or its link was lost"
        )
    raise PoolError(
        f"configure left a connection of pool {pool.name!r} in a transaction (status "
        f"{status}): commit there, or set autocommit"
    )


def _admit(pool: ConnectionPool, attempt: Attempt, conn: Any, started: float) -> Entry | None:
    """Make the connection one of the pool's; None if it comes too late to be wanted."""
    store = pool._store
    now = monotonic()
    fd = pool._driver.fileno(conn)
    life = (pool.max_lifetime or math.inf) * (1 - LIFETIME_SPREAD * random.random())
    entry = Entry(
        conn,
        keeper.inbox.put if pool._background else None,
        pool._ref,
        None if fd is None else sockets.poller(fd),
        now,
        now + life,
    )
    entry.attributes = pool._driver.attributes(conn)
    if pool._close_returns:
        close_returns.attach(pool, conn, attempt)
    entry.renew(now, pool._validate_after)
    store.drop_lost()  # a dropped connection may have had the id that this one has
    with store.lock:
        store.counters.count_connect(now - started)
        # Decided last: what a signal handler does after it (drain, resize) would not be seen.
        unwanted = attempt.unwanted
        if store.phase != "open":
            unwanted = "closed"
        elif now >= attempt.overdue_at:
            unwanted = "late"
        elif len(store.entries) >= store.max_size:  # resize came between
            unwanted = "excess"
        if unwanted:
            store.attempts.pop(id(attempt), None)
            store.counters.count_closed(unwanted)
            return None
        store.entries.add(entry)  # first the one, then the other: the sum must never fall
        attempt.arrived = True
        line = pool._outage.connected(now)
        store.proved_at = now
    if line:
        logger.warning("%s", line)
    return entry


def _opened(pool: ConnectionPool) -> None:
    """See to what is due after a connect: logging, those who wait for the minimum, upkeep."""
    store = pool._store
    store.event("opened")
    if len(store.entries) >= store.min_size:
        pool._queue.tell_filled(None)
    pool._outage.tell_others()
    if pool._background:
        keeper.schedule(pool, monotonic() + 1.0)
