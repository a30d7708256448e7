"""What a pool counts: histograms, and the totals of what has ended.

What a lent connection does, and how long its borrowers waited for it, is counted in its entry by
its exclusive owner, without a lock. What happens on slow paths is counted here, under the pool's
lock. An entry that ends is folded in here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .entry import Entry

__all__ = ["BOUNDS", "Counters", "bucket", "histogram", "plus"]

# OpenTelemetry's advice for db.client.operation.duration, in seconds.
BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


def bucket(seconds: float) -> int:
    """Return the index of the histogram bucket; a value equal to a bound is below it."""
    return bisect_left(BOUNDS, seconds)


def histogram(counts: list[int], total: float) -> dict[str, Any]:
    """Return a histogram as exporters want it: seconds, one count more than there are bounds."""
    return {"bounds": BOUNDS, "counts": counts, "sum": total}


class Counters:
    """What a pool has counted since it was made. Written under the pool's lock, by these verbs."""

    def __init__(self) -> None:
        self.uses = 0
        self.used = 0.0
        self.slow = [0] * (len(BOUNDS) + 1)
        self.failed = 0
        self.timeouts = 0
        self.shed = 0
        self.down = 0
        self.queued = 0  # in vain, or to be served by what has ended
        self.waited = 0.0
        self.waits = [0] * (len(BOUNDS) + 1)
        self.rescues = 0
        self.returns_bad = 0
        self.connects = 0
        self.connect_errors = 0
        self.connected = 0.0
        self.creates = [0] * (len(BOUNDS) + 1)
        self.found_dead = 0
        self.leaks = 0
        self.closed: Counter[str] = Counter()

    # -- connects

    def count_connect(self, seconds: float) -> None:
        """Count one connect that succeeded."""
        self.connects += 1
        self.connected += seconds
        self.creates[bucket(seconds)] += 1

    def count_connect_error(self) -> None:
        """Count one connect that failed."""
        self.connects += 1
        self.connect_errors += 1

    # -- connections

    def count_dead(self) -> None:
        """Count a connection that a look or a ping has found dead."""
        self.found_dead += 1

    def count_leaks(self, number: int) -> None:
        """Count connections that came back only because their borrowers were gone."""
        self.leaks += number

    def count_bad_return(self) -> None:
        """Count a connection that came back in no state to be lent again."""
        self.returns_bad += 1

    def count_closed(self, reason: str) -> None:
        """Count a connection that is closed; one that the pool has had is folded in, too."""
        self.closed[reason] += 1

    def fold(self, entry: Entry) -> None:
        """Take over what an entry has counted; call it once, when the entry ends."""
        self.uses += int(entry.uses)
        self.used += entry.used
        self.slow = plus(self.slow, entry.slow)
        self.queued += int(entry.queued)
        self.waited += entry.waited
        self.waits = plus(self.waits, entry.waits)

    # -- callers

    def count_failure(self, *, queued: bool) -> None:
        """Count a caller that got no connection. Arguments: `queued`, whether it has waited."""
        self.failed += 1
        self.queued += queued

    def count_timeout(self, *, down: bool) -> None:
        """Count what a caller was told of that timed out: among these it was also failed."""
        self.timeouts += 1
        self.down += down

    def count_shed(self) -> None:
        """Count a caller that was refused under overload."""
        self.shed += 1

    def count_rescue(self) -> None:
        """Count a waiter that found by itself what nobody had offered it."""
        self.rescues += 1


def plus(counts: list[int], more: list[int] | None) -> list[int]:
    """Return the sum, bucket by bucket; None is nothing."""
    return [a + b for a, b in zip(counts, more, strict=True)] if more else counts
