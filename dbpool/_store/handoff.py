"""How a connection passes from one caller to the next, without a lock.

Every step is one atomic operation on a deque, and each order of steps of any number of threads
leaves a connection in exactly one place. No wake-up can be lost: a caller first queues and then
looks for an idle connection, who returns one first puts it among the idle and then looks for a
waiter, so one of them sees the other.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .closing import close
from .waiter import CLOSED

if TYPE_CHECKING:
    from ..pool import ConnectionPool
    from .entry import Held
    from .waiter import Waiter

__all__ = ["FREE_THREADED", "answer_all", "dequeue", "offer", "oldest_wait", "settle"]

# Without a GIL a look at a deque's length may miss what another thread has just appended; there
# one has to look by operations that take the deque's own mutex.
FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


def offer(pool: ConnectionPool, held: Held) -> None:
    """Give a connection that is ours alone to the oldest waiter, or keep it idle."""
    waiters, idle = pool._waiters, pool._idle
    while True:
        while True:
            try:
                waiter = waiters[0]
            except IndexError:
                break
            if waiter is CLOSED:
                close(pool, held, "closed")
                return
            # Answered first and taken off the queue after: an exception between the two leaves
            # an answered waiter at the head, which the next one passes over.
            admission = pool._admission
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
        if pool._admission is not None:
            pool._admission.empty()
        try:
            waiters[0]
            held = idle.pop()
        except IndexError:
            return


def settle(pool: ConnectionPool) -> int:
    """Bring idle connections and waiters together; return how many were offered."""
    moved = 0
    while True:
        try:
            pool._waiters[0]
            held = pool._idle.pop()
        except IndexError:
            return moved
        offer(pool, held)
        moved += 1


def dequeue(pool: ConnectionPool, waiter: Waiter) -> None:
    """Take a waiter off the queue; done by whoever answered it, and by itself."""
    try:
        pool._waiters.remove(waiter)
    except ValueError:
        pass


def answer_all(pool: ConnectionPool, answer: object) -> None:
    """Answer everybody in the queue, and everybody who waits for the pool to fill."""
    while True:
        try:
            waiter = pool._waiters[0]
        except IndexError:
            break
        if waiter is CLOSED:
            break
        waiter.deliver(answer)
        dequeue(pool, waiter)
    tell_filling(pool, answer)


def tell_filling(pool: ConnectionPool, answer: object) -> None:
    """Answer those who wait until min_size connections are open."""
    with pool._lock:
        filling, pool._filling = pool._filling, []
    for waiter in filling:
        waiter.deliver(answer)


def oldest_wait(pool: ConnectionPool, now: float) -> float:
    """Return for how many seconds the head of the queue has waited; 0 if nobody waits."""
    try:
        return now - float(pool._waiters[0].since)
    except (IndexError, AttributeError):  # nobody; or CLOSED
        return 0.0
