"""Waiting until a pool has filled: `wait()`, and `open(wait=True)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import options
from .._runtime.clock import monotonic
from .._store.waiter import GONE, Waiter
from .._upkeep.lifecycle import closed_error
from ..errors import PoolTimeout

if TYPE_CHECKING:
    from .waiting import Waiting

__all__ = ["wait"]


def wait(waiting: Waiting, close: Callable[[float], object], timeout: float) -> None:
    """Wait until min_size connections are open.

    Arguments: `close`, which closes the pool if that takes longer than `timeout` seconds.
    """
    store, queue, outage, growth = waiting.store, waiting.queue, waiting.outage, waiting.growth
    timeout = options.seconds("timeout", timeout)
    started = monotonic()
    waiter = Waiter(started)
    with store.lock:
        if store.phase != "open":
            raise closed_error(store)
        outage.asked()
        if len(store.entries) >= store.min_size:
            return
        queue.filling.append(waiter)
    while True:
        now = monotonic()
        growth.grow_or_start(started, now)
        left = started + timeout - now
        if waiter.wait(min(left, waiting.nap(now, started))) or left <= 0:
            break
        if len(store.entries) >= store.min_size:  # it takes fewer: resize came between
            waiter.deliver(None)
            break
    answer = waiter.withdraw()
    if answer is None:
        return
    if answer is not GONE:
        raise waiting.refusals.refusal(answer, monotonic() - started)
    failure = outage.failure
    size = len(store.entries)
    why = f"; connecting fails ({failure.reason})" if failure else ""
    if outage.paused:
        why = "; the pool is paused: call resume() first"
    error = waiting.refusals.error(PoolTimeout)(
        f"pool {store.name!r}: {size} of min_size={store.min_size} connections were open after "
        f"{timeout:.2f} s{why}"
    )
    error.waited, error.size = monotonic() - started, size
    close(0.0)  # what is still connecting is closed on arrival
    raise error from (failure.error if failure else None)
