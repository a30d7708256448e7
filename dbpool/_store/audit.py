"""The invariants of a pool, asserted; for tests, at a quiet point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._runtime.clock import monotonic
from .waiter import CLOSED

if TYPE_CHECKING:
    from ..pool import ConnectionPool

__all__ = ["audit"]


def audit(pool: ConnectionPool) -> None:
    """Raise AssertionError if an invariant is broken. No caller may be inside the pool."""
    with pool._lock:
        held = list(pool._idle)
        idle, lent = [entry for _, entry in held], list(pool._in_use.values())
        waiters = [waiter for waiter in pool._waiters if waiter is not CLOSED]
        now = monotonic()  # what is given up is closed if it ever comes
        timely = sum(each.overdue_at > now for each in pool._attempts())
        entries, size = pool._entries, len(pool._entries) + timely
        # What was lent when the pool was made smaller goes when it comes back.
        leaving = sum(not entry.expires_at for entry in lent)
        faults = {
            "an entry is idle twice": len(set(idle)) != len(idle),
            "an entry is idle and lent": bool(set(idle) & set(lent)),
            "an entry is nowhere, or unknown": set(idle) | set(lent) != entries,
            "an idle pair does not match": any(entry() is not conn for conn, entry in held),
            "a lent entry has another's key": any(
                entry.key != key for key, entry in pool._in_use.items()
            ),
            "a dropped connection has a slot": any(entry() is None for entry in entries),
            f"{size} open and connecting exceed max_size": size - leaving > pool.max_size,
            "an idle entry rests beside a waiter": bool(idle) and bool(waiters),
            "a closed pool is not empty": pool._state == "closed" and bool(idle or waiters),
            "a closed pool lets waiters queue": pool._state == "closed"
            and CLOSED not in pool._waiters,
        }
    broken = [text for text, fault in faults.items() if fault]
    if broken:
        raise AssertionError(f"{pool!r}: {'; '.join(broken)}")
