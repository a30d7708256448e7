"""Connects that do not end, and how a pool gets on in spite of them.

A connect has a deadline of its own, but not everything in it knows of that: the C library that
looks up a name, a wait callback, the user's own conninfo, kwargs or configure. No thread can be
ended from outside, so one that hangs there is given up: its connection is closed if it ever comes,
and others connect in its place. Two may be replaced at once. Once as many hang as may be under way
together, each further one waits for half as long as the pool has been trying: it connects again
soon after the cause has gone, and of the threads that hang there are 14 after ten minutes and 26
after a day.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from .outage import IN_A_ROW

if TYPE_CHECKING:
    from .._store.attempt import Attempt
    from .._store.inventory import Inventory
    from .outage import Outage
    from .replies import Replies

__all__ = ["REPLACED", "count", "may_join", "next_try", "tell"]

logger = logging.getLogger("dbpool.pool")

REPLACED = 2  # given-up connects that do not count against max_connecting
LONGER = 1.5  # how much longer than until the last one it is until the next one is tried
MOST = 16  # that hang at once, before those of old troubles count as well


def may_join(
    store: Inventory,
    outage: Outage,
    attempts: list[Attempt],
    timely: int,
    size: int,
    now: float,
) -> bool:
    """Return whether one more connect may be under way beside these; under the lock.

    Arguments: `timely`, how many of them are not given up; `size`, how many connections there may
    be.
    """
    at_once = outage.parallel_connects(store)
    hanging = len(attempts) - timely
    there = len(store.entries)
    if there + len(attempts) < size and timely + max(0, hanging - REPLACED) < at_once:
        return True
    # Those that hang must not stand in the way for ever.
    alone = not timely and there < size
    return alone and now >= next_try(outage, attempts)


def next_try(outage: Outage, hanging: list[Attempt]) -> float:
    """Return when it is time to try in spite of those that hang; under the lock."""
    # What connected since has shown that the older ones hang for a reason that is gone.
    since = [each.since for each in hanging if each.since >= outage.fresh_since]
    if len(hanging) >= MOST:
        since = [each.since for each in hanging]
    if not since:
        return -math.inf
    first, last = min(since), max(since)
    return first + LONGER * (last - first)


def count(store: Inventory, outage: Outage, now: float) -> int:
    """Count the connects that hang and were begun since one has last succeeded; under the lock."""
    fresh = outage.fresh_since
    return sum(a.overdue_at <= now and a.since >= fresh for a in store.under_way())


def tell(store: Inventory, outage: Outage, replies: Replies, now: float) -> None:
    """See whether connects hang; say so in the log, and in the pool's state if none is open."""
    alive = replies.any_alive() if count(store, outage, now) >= IN_A_ROW else True
    lines = []
    with store.lock:
        outage.stuck = count(store, outage, now)
        if outage.stuck < IN_A_ROW:
            return
        hanging = [a for a in store.under_way() if a.overdue_at <= now]
        if outage.stuck > outage.told_stuck:
            outage.told_stuck = outage.stuck
            where = (
                "in conninfo, kwargs or configure, which are yours"
                if all(each.in_callback for each in hanging)
                else "in the driver, in a name's look-up or a wait callback say"
            )
            lines.append(
                f"pool {store.name!r}: {outage.stuck} connects do not end, {where}; the oldest has "
                f"hung for {now - min(each.since for each in hanging):.0f} s, and the next one is "
                f"tried in {max(0.0, next_try(outage, hanging) - now):.0f} s"
            )
        lines.append(outage.connects_stuck(store, now, alive))
    for line in filter(None, lines):
        logger.warning("%s", line)
