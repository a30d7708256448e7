"""What a failed connect means: for the next one, for those who wait, and for the pool's state."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .._runtime.frames import forget_locals
from .._runtime.scheduler import keeper
from ..drivers.base import MISCONFIGURED, PERMANENT, Mistake
from . import mistakes, replies

if TYPE_CHECKING:
    from .._store.attempt import Attempt
    from .._store.entry import Entry
    from ..pool import ConnectionPool

__all__ = ["CHECK_FAILED", "Failure", "failed", "rejected"]

logger = logging.getLogger("dbpool.pool")

CHECK_FAILED = "check_failed"  # a Failure's reason where connecting itself went well
NEW = 1.0  # seconds for which a connection that has not been lent yet is a new one


class Failure:
    """Why connecting failed, as a waiter is told; each raises an exception of its own."""

    __slots__ = ("at", "error", "mistake", "reason", "silent", "unclear")

    def __init__(
        self,
        error: BaseException,
        reason: str,
        mistake: Mistake | None = None,
        *,
        silent: bool = False,
        unclear: bool = False,
    ) -> None:
        self.at = monotonic()
        self.error = error
        self.reason = reason
        self.mistake = mistake  # of the configuration: it says nothing about the server
        self.silent = silent  # whether nothing has answered
        self.unclear = unclear  # whether something has, in words that nobody here understands


def rejected(pool: ConnectionPool, entry: Entry, error: BaseException, now: float) -> None:
    """Put the next connect off if it is a new connection that has failed the user's check.

    One that has been idle for a while, though never lent, says nothing of those that a connect
    would bring; nor does one that is older than the last failure, which has been counted.
    """
    if entry.uses or now - entry.born >= NEW:
        return
    with pool._store.lock:
        known = pool._backoff.failure
        if known is None or entry.born >= known.at:
            pool._backoff.failed(monotonic(), Failure(error, CHECK_FAILED))


def failed(pool: ConnectionPool, attempt: Attempt, error: BaseException, conn: Any) -> None:
    """Put the next attempt off, and tell those whom waiting cannot help.

    Arguments: `conn`, still open, if it was the callback for it that failed.
    """
    store = pool._store
    now = monotonic()
    # What a callback met with is the server's word only if the link was lost beneath it.
    in_callback = attempt.in_callback and not (
        conn is not None and pool._driver.is_disconnect(conn, error)
    )
    answer = replies.of(pool, attempt, error)
    reason, mistake = answer.reason, attempt.mistake
    if in_callback:
        mistake = mistakes.in_callback(attempt.in_callback, error)
    elif reason == MISCONFIGURED and mistake is None:  # in the server's own words
        mistake = Mistake(
            "the server refuses a setting that the session starts with (in options, say): see the "
            "cause"
        )
    if mistake is not None:
        reason = MISCONFIGURED
    # A page of local variables would show the password, which the frames of ours have had.
    forget_locals(error)
    where = mistakes.users_part(error.__traceback__) if in_callback else None
    failure = Failure(
        error.with_traceback(where), reason, mistake, silent=answer.silent, unclear=answer.unclear
    )
    alive = replies.any_alive(pool)
    with store.lock:
        store.attempts.pop(id(attempt), None)
        store.counters.count_connect_error()
        if not isinstance(error, (Exception, SystemExit)):
            return  # the thread was interrupted: that says nothing about the server
        if reason == "too_many_connections" and alive:
            line = pool._reach.is_full(pool, now)
        else:
            pool._backoff.failed(now, failure)
            line = pool._reach.connect_failed(pool, now, attempt.since, failure, alive)
        first = pool._backoff.failing_since == now
        give_up = now - (pool._backoff.failing_since or now) >= pool.reconnect_timeout
        report = give_up and not pool._backoff.reported
        pool._backoff.given_up = pool._backoff.reported = give_up
        retry_at = pool._backoff.retry_at
    # Once per outage; the driver's text names host and user, so it stays out of the log.
    if line:
        logger.warning("%s", line)
    elif first and mistake is not None:
        logger.error(
            "pool %r cannot connect: %s",
            pool.name,
            mistake.said,
            exc_info=(type(error), error, where) if in_callback else None,
        )
    elif first:
        logger.warning("pool %r cannot connect: %s (%s)", pool.name, reason, type(error).__name__)
    if reason in PERMANENT:
        # Who waits for what is open is served yet; who waits for the minimum is not.
        (pool._queue.tell_filled if alive else pool._queue.answer_all)(failure)
    if pool._background:
        keeper.schedule(pool, retry_at)
    if report and pool._reconnect_failed is not None:
        try:
            pool._reconnect_failed(pool)
        except Exception:
            logger.exception("pool %r: reconnect_failed raised", pool.name)
