"""What a failed connect means: for the next one, for those who wait, and for the pool's state."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .._runtime.frames import forget_locals
from .._runtime.scheduler import keeper
from .._store.attempt import CHECK_FAILED, Failure
from ..drivers.base import MISCONFIGURED, PERMANENT, Mistake
from . import mistakes, replies

if TYPE_CHECKING:
    from .._store.attempt import Attempt
    from .._store.entry import Entry
    from ..pool import ConnectionPool

__all__ = ["failed", "rejected"]

logger = logging.getLogger("dbpool.pool")

NEW = 1.0  # seconds for which a connection that has not been lent yet is a new one


def rejected(pool: ConnectionPool, entry: Entry, error: BaseException, now: float) -> None:
    """Put the next connect off if it is a new connection that has failed the user's check.

    One that has been idle for a while, though never lent, says nothing of those that a connect
    would bring; nor does one that is older than the last failure, which has been counted.
    """
    if entry.uses or now - entry.born >= NEW:
        return
    with pool._store.lock:
        known = pool._outage.failure
        if known is None or entry.born >= known.at:
            pool._outage.put_off(monotonic(), Failure(error, CHECK_FAILED))


def failed(pool: ConnectionPool, attempt: Attempt, error: BaseException, conn: Any) -> None:
    """Put the next attempt off, and tell those whom waiting cannot help.

    Arguments: `conn`, still open, if it was the callback for it that failed.
    """
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
    known = isinstance(error, pool._driver.OperationalError)
    with pool._store.lock:
        pool._store.attempts.pop(id(attempt), None)
        pool._store.counters.count_connect_error()
        if not isinstance(error, (Exception, SystemExit)):
            return  # the thread was interrupted: that says nothing about the server
        told = pool._outage.failed(
            pool._store, now, attempt.since, failure, alive=alive, known=known
        )
        retry_at = pool._outage.retry_at
    # Once per outage; the driver's text names host and user, so it stays out of the log.
    if told.line:
        logger.warning("%s", told.line)
    elif told.first and mistake is not None:
        logger.error(
            "pool %r cannot connect: %s",
            pool.name,
            mistake.said,
            exc_info=(type(error), error, where) if in_callback else None,
        )
    elif told.first:
        logger.warning("pool %r cannot connect: %s (%s)", pool.name, reason, type(error).__name__)
    if reason in PERMANENT:
        # Who waits for what is open is served yet; who waits for the minimum is not.
        (pool._queue.tell_filled if alive else pool._queue.answer_all)(failure)
    if pool._background:
        keeper.schedule(pool, retry_at)
    if told.gives_up and pool._reconnect_failed is not None:
        try:
            pool._reconnect_failed(pool)
        except Exception:
            logger.exception("pool %r: reconnect_failed raised", pool.name)
