"""One caller in the queue, and the answers it may get instead of a connection."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["CLOSED", "GONE", "OVERLOADED", "Waiter"]

CLOSED = object()  # what close() answers; it also stands in the queue of a closed pool for good
OVERLOADED = object()  # what one that is refused gets for an answer
GONE = object()  # the answer a waiter gives itself when it stops waiting


class Waiter:
    """One caller in the queue. It is answered once: delivery, timeout and close cannot all win."""

    __slots__ = ("_answer", "_lock", "since")

    def __init__(self, now: float) -> None:
        # A lock taken at birth is the cheapest thing to sleep on (an Event costs 36 times as
        # much). threading.Lock is looked up now, so that a late monkey-patch is honoured.
        self._lock = threading.Lock()
        self._lock.acquire()
        self._answer: dict[int, Any] = {}
        self.since = now

    def deliver(self, answer: Any) -> bool:
        """Answer, from any thread. False if somebody (or the waiter itself) was first."""
        # setdefault is one atomic step: it decides who wins.
        if self._answer.setdefault(0, answer) is not answer:
            return False
        try:
            self._lock.release()
        except RuntimeError:  # two who close the pool bring the same answer
            pass
        return True

    def wait(self, seconds: float) -> bool:
        """Sleep until answered, at most `seconds`; True if answered."""
        if seconds > 0 and not self._answer:
            self._lock.acquire(True, seconds)  # a keyword would cost as much as the lock
        return 0 in self._answer

    def withdraw(self) -> Any:
        """Stop waiting. Return the answer that came first, else GONE."""
        return self._answer.setdefault(0, GONE)
