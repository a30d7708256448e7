"""Waiting until a pool has filled: `wait()`, and `open(wait=True)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import options
from .._connect import growth
from .._runtime.clock import monotonic
from .._store.waiter import GONE, Waiter
from ..errors import PoolTimeout
from .refusal import refusal
from .waiting import nap

if TYPE_CHECKING:
    from ..pool import ConnectionPool

__all__ = ["wait"]


def wait(pool: ConnectionPool, timeout: float) -> None:
    """Wait until min_size connections are open."""
    store = pool._store
    timeout = options.seconds("timeout", timeout)
    started = monotonic()
    waiter = Waiter(started)
    with store.lock:
        if store.phase != "open":
            raise pool._closed_error()
        pool._outage.asked()
        if len(store.entries) >= store.min_size:
            return
        pool._queue.filling.append(waiter)
    while True:
        now = monotonic()
        growth.grow_or_start(pool, started, now)
        left = started + timeout - now
        if waiter.wait(min(left, nap(pool, now, started))) or left <= 0:
            break
        if len(store.entries) >= store.min_size:  # it takes fewer: resize came between
            waiter.deliver(None)
            break
    answer = waiter.withdraw()
    if answer is None:
        return
    if answer is not GONE:
        raise refusal(pool, answer, monotonic() - started)
    failure = pool._outage.failure
    size = len(store.entries)
    why = f"; connecting fails ({failure.reason})" if failure else ""
    if pool._outage.paused:
        why = "; the pool is paused: call resume() first"
    error = pool._error(PoolTimeout)(
        f"pool {pool.name!r}: {size} of min_size={store.min_size} connections were open after "
        f"{timeout:.2f} s{why}"
    )
    error.waited, error.size = monotonic() - started, size
    pool.close(timeout=0)  # what is still connecting is closed on arrival
    raise error from (failure.error if failure else None)
