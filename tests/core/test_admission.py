"""Refusing early under overload: the algorithm, on a clock and a load that are made up."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from statistics import median, quantiles

import pytest

from tests.support import inside

TARGET, INTERVAL = 0.05, 2.0
SERVICE = 0.05  # seconds, on average
SLOTS = 10
WARM, END = 10.0, 60.0


@dataclass
class Outcome:
    """What became of the callers that came between WARM and END."""

    waits: list[float] = field(default_factory=list)  # of those that were served
    refused: list[float] = field(default_factory=list)  # after how long

    @property
    def goodput(self) -> float:
        """Callers served within a second of waiting, per second."""
        return sum(wait <= 1.0 for wait in self.waits) / (END - WARM)

    @property
    def p99(self) -> float:
        return quantiles(self.waits, n=100)[98]


def simulate(load: float, codel: inside.CoDel | None, seed: int = 1) -> Outcome:
    """Let callers come at `load` times the capacity; arrivals and service are exponential."""
    chance = random.Random(seed)
    free, queue, outcome = SLOTS, deque[float](), Outcome()
    events: list[tuple[float, str]] = [(0.0, "arrival"), (INTERVAL, "tick")]

    def serve(since: float, now: float) -> None:
        heapq.heappush(events, (now + chance.expovariate(1 / SERVICE), "done"))
        if now >= WARM:
            outcome.waits.append(now - since)

    def refuse(now: float) -> None:
        waited = now - queue.popleft()
        if now >= WARM:
            outcome.refused.append(waited)

    while events and events[0][0] < END:
        now, what = heapq.heappop(events)
        if what == "arrival":
            heapq.heappush(events, (now + chance.expovariate(load * SLOTS / SERVICE), "arrival"))
            queue.append(now)
        elif what == "done":
            free += 1
        elif codel is not None:
            heapq.heappush(events, (now + INTERVAL, "tick"))
            if codel.tick(queue[0] if queue else None, now):
                while queue and codel.too_long(now - queue[0]):
                    refuse(now)
        while free and queue:
            asked = codel if what == "done" else None
            if asked is not None and asked.refuses(now - queue[0], now, len(queue) - 1):
                refuse(now)
                continue
            free -= 1
            serve(queue.popleft(), now)
        if codel is not None and what == "done" and not queue:
            codel.empty()
    return outcome


def codel(now: float = 0.0) -> inside.CoDel:
    return inside.CoDel(TARGET, INTERVAL, now)


@pytest.mark.parametrize("seed", range(5))
def test_under_overload_those_that_are_served_wait_short(seed: int) -> None:
    capacity = SLOTS / SERVICE
    fifo, ours = simulate(1.5, None, seed), simulate(1.5, codel(), seed)
    assert fifo.goodput == 0, "without admission everybody waits for seconds"
    assert ours.goodput > 0.95 * capacity
    assert median(ours.waits) < 4 * TARGET
    # In an interval that is not slow the queue grows by half a second's work for each second.
    assert ours.p99 < 1.5
    assert median(ours.refused) < 3 * TARGET
    assert len(ours.refused) == pytest.approx(0.5 * capacity * (END - WARM), rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_load_that_can_be_served_is_served(seed: int) -> None:
    fifo, ours = simulate(0.9, None, seed), simulate(0.9, codel(), seed)
    assert len(ours.refused) < 0.02 * len(ours.waits)
    assert len(ours.waits) > 0.98 * len(fifo.waits)


@pytest.mark.parametrize("seed", range(5))
def test_an_easy_load_is_never_refused(seed: int) -> None:
    assert simulate(0.6, codel(), seed).refused == []


def test_nobody_is_refused_while_every_wait_is_within_the_target() -> None:
    ours = codel()
    now = 0.0
    while now < 20.0:
        now += 0.01
        assert not ours.refuses(TARGET, now, others=50)


def test_the_last_one_in_the_queue_is_served_however_long_it_has_waited() -> None:
    ours = overloaded()
    assert ours.refuses(1.0, 4.1, others=1)
    assert not ours.refuses(1.0, 4.1, others=0)


def test_a_burst_that_ends_within_the_interval_is_left_alone() -> None:
    ours = codel()
    for now in (2.0, 3.0, 3.9):
        assert not ours.refuses(1.5, now, others=50)
    ours.empty()  # the queue was empty once
    for now in (4.0, 4.1):
        assert not ours.refuses(1.5, now, others=50)


def test_a_burst_after_a_quiet_time_is_left_alone_without_a_timer() -> None:
    """Who returns to an idle pool tells nobody, and with background=False nothing else does."""
    ours = codel()
    for now in (2.0, 2.5):
        assert not ours.refuses(0.5, now, others=1)
    for now in (60.5, 60.6, 60.7):
        assert not ours.refuses(0.5, now, others=50)


def test_overload_ends_with_the_first_interval_in_which_somebody_waited_short() -> None:
    ours = overloaded()
    assert ours.refuses(1.0, 4.1, others=9)
    assert not ours.refuses(0.01, 4.2, others=9)
    assert not ours.refuses(1.0, 6.0, others=9)  # a new interval: it is not slow any more
    assert not ours.refuses(1.0, 6.1, others=9)


def test_where_nothing_comes_back_the_timer_refuses() -> None:
    ours = codel()
    assert not ours.refuses(0.2, 2.1, others=9)  # the first interval ends; nobody was seen before
    since = 2.2
    assert not ours.tick(since, 4.0)
    assert ours.tick(since, 6.0)
    assert ours.too_long(6.0 - since)
    assert not ours.too_long(2 * TARGET)


def test_the_timer_leaves_a_queue_alone_that_moves() -> None:
    ours = codel()
    assert not ours.refuses(0.2, 2.1, others=9)
    for now in (4.0, 6.0, 8.0):
        assert not ours.tick(now - 0.2, now)


def test_the_timer_refuses_nobody_where_nobody_waits() -> None:
    ours = codel()
    assert not ours.tick(None, 4.0)
    assert not ours.tick(None, 8.0)


def overloaded() -> inside.CoDel:
    """Return one that has seen nothing but long waits from 2.0 to 4.0, and refuses since."""
    ours = codel()
    for now in (2.0, 3.0, 4.0):
        assert not ours.refuses(1.0, now, others=50)
    return ours


def test_a_queue_whose_waits_are_short_refuses_nobody_by_the_timer() -> None:
    codel = inside.CoDel(target=1.0, interval=10.0, now=0.0)
    assert not codel.tick(0.0, 5.0)
    assert not codel.tick(0.0, 10.0), "nobody has been seen to wait for longer than the target"
    assert codel.tick(0.0, 20.0)
    assert [codel.too_long(waited) for waited in (1.0, 2.0, 2.1)] == [False, False, True]
