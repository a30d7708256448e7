"""How a connection passes from one caller to the next, without a lock.

Every step is one atomic operation on a deque, and each order of steps of any number of threads
leaves a connection in exactly one place. No wake-up can be lost: a caller first queues and then
looks for an idle connection, who returns one first puts it among the idle and then looks for a
waiter, so one of them sees the other.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from .waiter import CLOSED

if TYPE_CHECKING:
    from .admission import Admission
    from .entry import Held
    from .inventory import Inventory
    from .waiter import Waiter

__all__ = ["FREE_THREADED", "Handoff"]

# Without a GIL a look at a deque's length may miss what another thread has just appended; there
# one has to look by operations that take the deque's own mutex.
FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


class Handoff:
    """The idle connections of one pool, and the callers that wait for one.

    Arguments: `reuse`, "lifo" or "fifo", which of the idle ones is lent first; `admission`, which
    refuses callers under overload, if there is one.
    """

    def __init__(self, store: Inventory, reuse: str, admission: Admission | None) -> None:
        self.store = store
        self.admission = admission
        self._reuse = reuse
        self.clear()

    def clear(self) -> None:
        """Start with nothing; also in a forked child."""
        self.idle: deque[Held] = deque()
        self.take = self.idle.pop if self._reuse == "lifo" else self.idle.popleft
        self.waiters: deque[Any] = deque()  # of Waiter; CLOSED stands at the end of a closed one
        self.filling: list[Waiter] = []  # who waits for the minimum
        if self.store.phase == "closed":
            self.waiters.append(CLOSED)
        if self.admission is not None:
            self.admission.begin(self)

    @property
    def shut(self) -> bool:
        """Whether nobody is served: the pool is closed, or not open yet."""
        return self.store.phase != "open"

    def waiting(self) -> int:
        """Return how many callers queue."""
        return max(0, len(self.waiters) - (self.store.phase == "closed"))

    def oldest_wait(self, now: float) -> float:
        """Return for how many seconds the head of the queue has waited; 0 if nobody waits."""
        try:
            return now - float(self.waiters[0].since)
        except (IndexError, AttributeError):  # nobody; or CLOSED
            return 0.0

    def offer(self, held: Held) -> None:
        """Give a connection that is ours alone to the oldest waiter, or keep it idle."""
        waiters, idle, admission = self.waiters, self.idle, self.admission
        while True:
            while True:
                try:
                    waiter = waiters[0]
                except IndexError:
                    break
                if waiter is CLOSED:
                    self.store.close(held, "closed")
                    return
                # Answered first and taken off the queue after: an exception between the two leaves
                # an answered waiter at the head, which the next one passes over.
                if admission is not None and admission.refuses(waiter, len(waiters) - 1):
                    delivered = False
                else:
                    delivered = waiter.deliver(held)
                try:
                    waiters.remove(waiter)
                except ValueError:
                    pass
                if delivered:
                    return
            idle.append(held)
            if admission is not None:
                admission.empty()
            try:
                waiters[0]
                held = idle.pop()
            except IndexError:
                return

    def match(self) -> int:
        """Bring idle connections and waiters together; return how many were offered."""
        moved = 0
        while True:
            try:
                self.waiters[0]
                held = self.idle.pop()
            except IndexError:
                return moved
            self.offer(held)
            moved += 1

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter off the queue; done by whoever answered it, and by itself."""
        try:
            self.waiters.remove(waiter)
        except ValueError:
            pass

    def answer_all(self, answer: object) -> None:
        """Answer everybody in the queue, and everybody who waits for the pool to fill."""
        while True:
            try:
                waiter = self.waiters[0]
            except IndexError:
                break
            if waiter is CLOSED:
                break
            waiter.deliver(answer)
            self.leave(waiter)
        self.tell_filled(answer)

    def tell_filled(self, answer: object) -> None:
        """Answer those who wait until min_size connections are open; None is that they are."""
        with self.store.lock:
            filling, self.filling = self.filling, []
        for waiter in filling:
            waiter.deliver(answer)
