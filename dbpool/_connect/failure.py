"""What a failed connect means: for the next one, for those who wait, and for the pool's state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._runtime.clock import monotonic
from .._runtime.frames import forget_locals
from .._store.attempt import CHECK_FAILED, Failure
from ..drivers.base import MISCONFIGURED, PERMANENT, Mistake
from . import mistakes

if TYPE_CHECKING:
    from .._runtime.runner import Runner
    from .._store.attempt import Attempt
    from .._store.entry import Entry
    from .._store.handoff import Handoff
    from .outage import Outage
    from .replies import Replies

__all__ = ["Failures"]

logger = logging.getLogger("dbpool.pool")

NEW = 1.0  # seconds for which a connection that has not been lent yet is a new one


class Failures:
    """Where the connects of one pool report that they have failed.

    Arguments: `reconnect_failed`, called once per outage when connecting is given up, or None.
    """

    def __init__(
        self,
        queue: Handoff,
        outage: Outage,
        replies: Replies,
        runner: Runner,
        reconnect_failed: Callable[[], object] | None,
    ) -> None:
        self._store, self._queue = queue.store, queue
        self._outage = outage
        self._replies = replies
        self._runner = runner
        self._reconnect_failed = reconnect_failed

    def rejected(self, entry: Entry, error: BaseException, now: float) -> None:
        """Put the next connect off if it is a new connection that has failed the user's check.

        One that has been idle for a while, though never lent, says nothing of those that a connect
        would bring; nor does one that is older than the last failure, which has been counted.
        """
        if entry.uses or now - entry.born >= NEW:
            return
        with self._store.lock:
            known = self._outage.failure
            if known is None or entry.born >= known.at:
                self._outage.put_off(monotonic(), Failure(error, CHECK_FAILED))

    def failed(self, attempt: Attempt, error: BaseException, conn: Any) -> None:
        """Put the next attempt off, and tell those whom waiting cannot help.

        Arguments: `conn`, still open, if it was the callback for it that failed.
        """
        now = monotonic()
        # What a callback met with is the server's word only if the link was lost beneath it.
        in_callback = attempt.in_callback and not (
            conn is not None and self._store.driver.is_disconnect(conn, error)
        )
        answer = self._replies.of(attempt, error)
        reason, mistake = answer.reason, attempt.mistake
        if in_callback:
            mistake = mistakes.in_callback(attempt.in_callback, error)
        elif reason == MISCONFIGURED and mistake is None:  # in the server's own words
            mistake = Mistake(
                "the server refuses a setting that the session starts with (in options, say): see "
                "the cause"
            )
        if mistake is not None:
            reason = MISCONFIGURED
        # A page of local variables would show the password, which the frames of ours have had.
        forget_locals(error)
        where = mistakes.users_part(error.__traceback__) if in_callback else None
        failure = Failure(
            error.with_traceback(where),
            reason,
            mistake,
            silent=answer.silent,
            unclear=answer.unclear,
        )
        alive = self._replies.any_alive()
        known = isinstance(error, self._store.driver.OperationalError)
        with self._store.lock:
            self._store.attempts.pop(id(attempt), None)
            self._store.counters.count_connect_error()
            if not isinstance(error, (Exception, SystemExit)):
                return  # the thread was interrupted: that says nothing about the server
            told = self._outage.failed(
                self._store, now, attempt.since, failure, alive=alive, known=known
            )
            retry_at = self._outage.retry_at
        # Once per outage; the driver's text names host and user, so it stays out of the log.
        if told.line:
            logger.warning("%s", told.line)
        elif told.first and mistake is not None:
            logger.error(
                "pool %r cannot connect: %s",
                self._store.name,
                mistake.said,
                exc_info=(type(error), error, where) if in_callback else None,
            )
        elif told.first:
            logger.warning(
                "pool %r cannot connect: %s (%s)", self._store.name, reason, type(error).__name__
            )
        if reason in PERMANENT:
            # Who waits for what is open is served yet; who waits for the minimum is not.
            (self._queue.tell_filled if alive else self._queue.answer_all)(failure)
        self._runner.wake(retry_at)
        if told.gives_up and self._reconnect_failed is not None:
            try:
                self._reconnect_failed()
            except Exception:
                logger.exception("pool %r: reconnect_failed raised", self._store.name)
