"""Pauses between connects that fail, and whether the pool has given up."""

from __future__ import annotations

import random

from ..drivers.base import PERMANENT
from .failure import CHECK_FAILED, Failure

__all__ = ["Backoff"]


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
        self.pause = 0.0

    def failed(self, now: float, failure: Failure) -> None:
        """Put the next attempt off."""
        if self.pause:
            lower = max(self.lowest, self.highest / 3)
            self.pause = random.uniform(min(self.pause, lower), min(3 * self.pause, self.highest))
        else:
            self.pause = self.lowest * random.uniform(1.0, 1.5)
            self.failing_since = now
        self.retry_at = now + self.pause
        self.failure = failure

    def hurry(self) -> None:
        """The last open connection has gone: who waited for that one waits for a connect now."""
        if self.failure is not None and not self.checking:
            self.retry_at = 0.0

    @property
    def checking(self) -> bool:
        """Whether the last failure is a new connection's that did not pass the user's check."""
        return self.failure is not None and self.failure.reason == CHECK_FAILED

    @property
    def permanent(self) -> Failure | None:
        """The last failure, if it is one that no retry mends."""
        failure = self.failure
        return failure if failure is not None and failure.reason in PERMANENT else None
