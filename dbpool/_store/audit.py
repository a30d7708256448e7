"""The invariants of a pool, asserted; for tests, at a quiet point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._runtime.clock import monotonic
from .waiter import CLOSED

if TYPE_CHECKING:
    from .handoff import Handoff

__all__ = ["audit"]


def audit(queue: Handoff) -> None:
    """Raise AssertionError if an invariant is broken. No caller may be inside the pool."""
    store = queue.store
    with store.lock:
        held = list(queue.idle)
        idle, lent = [entry for _, entry in held], list(store.in_use.values())
        waiters = [waiter for waiter in queue.waiters if waiter is not CLOSED]
        now = monotonic()  # what is given up is closed if it ever comes
        timely = sum(each.overdue_at > now for each in store.under_way())
        entries, size = store.entries, len(store.entries) + timely
        # What was lent when the pool was made smaller goes when it comes back.
        leaving = sum(not entry.expires_at for entry in lent)
        closed = store.phase == "closed"
        faults = {
            "an entry is idle twice": len(set(idle)) != len(idle),
            "an entry is idle and lent": bool(set(idle) & set(lent)),
            "an entry is nowhere, or unknown": set(idle) | set(lent) != entries,
            "an idle pair does not match": any(entry() is not conn for conn, entry in held),
            "a lent entry has another's key": any(
                entry.key != key for key, entry in store.in_use.items()
            ),
            "a dropped connection has a slot": any(entry() is None for entry in entries),
            f"{size} open and connecting exceed max_size": size - leaving > store.max_size,
            "an idle entry rests beside a waiter": bool(idle) and bool(waiters),
            "a closed pool is not empty": closed and bool(idle or waiters),
            "a closed pool lets waiters queue": closed and CLOSED not in queue.waiters,
        }
    broken = [text for text, fault in faults.items() if fault]
    if broken:
        raise AssertionError(f"pool {store.name!r}: {'; '.join(broken)}")
