"""The scenes beyond a return and a caller: cancelled callers, connectors, administration, close.

Two threads are explored with three preemptions, three with two, by `make test` with one fewer; a
`long` run takes one more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import dbpool
from dbpool import PoolClosed
from tests.support import inside, schedule
from tests.support.scenery import TIMED, UNTIMED, Cancelled, Keeper, Scene, Scenery, models

__all__ = ["models"]

# All computing, and so as slow as whatever runs beside it lets it be.
pytestmark = pytest.mark.computes

PACKAGE = os.path.dirname(dbpool.__file__) + os.sep
Worker = Callable[[], object]
Workers = Callable[[Scenery, Keeper], Sequence[Worker]]


# What a thread does in a scene


def returns(s: Scenery, close: bool = False) -> Worker:
    box = [s.pool.getconn()]
    return lambda: s.pool.putconn(box.pop(), close=close)


def drops(s: Scenery) -> Worker:
    """Forget a connection, and find it as the keeper does."""
    box = [s.pool.getconn()]

    def work() -> None:
        schedule.point("drop")
        box.clear()
        s.dropped += 1
        inside.find_lost(s.pool)

    return work


def asks(s: Scenery, timeout: float = UNTIMED) -> Worker:
    return lambda: s.borrow_or_not(timeout)


def must_get(s: Scenery, keeper: Keeper) -> Worker:
    """Wait without a timeout, with a connector there: be served, or be forgotten for ever."""

    def work() -> None:
        s.borrow(UNTIMED)
        s.over += 1
        keeper.ring()

    return work


def connector(s: Scenery, keeper: Keeper, callers: int = 1) -> Worker:
    """Do what connector threads do whenever the keeper is asked for one."""
    keeper.bell = bell = schedule.Lock()
    bell._held = True

    def work() -> None:
        while s.over < callers:
            bell.acquire()
            inside.connect_all(s.pool)

    return work


def connects(s: Scenery) -> Worker:
    attempt = [s.attempt()]
    return lambda: inside.make(s.pool, attempt.pop())


def is_cancelled(s: Scenery, when: str) -> Worker:
    """Wait, and be cancelled while asleep, or just when it has been served."""

    def work() -> None:
        Scenery.cancelled[schedule.who()] = when
        try:
            s.borrow(UNTIMED)
        except (Cancelled, PoolClosed):
            pass

    return work


@pytest.fixture
def cancelling(models: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `is_cancelled` happen."""
    wait = inside.Waiter.wait

    def wait_and_be_cancelled(waiter: Any, seconds: float) -> bool:
        when = Scenery.cancelled.pop(schedule.who(), "")
        if not when:
            return wait(waiter, seconds)
        served = wait(waiter, TIMED)
        schedule.point("cancelled")
        if served == (when == "served"):
            raise Cancelled
        return served or wait(waiter, seconds)

    inside.patch(monkeypatch, "Waiter.wait", wait_and_be_cancelled)


def _names(workers: Workers) -> tuple[str, ...]:
    return workers.__code__.co_names


SCENES: dict[str, tuple[Workers, dict[str, Any]]] = {
    "a drain, a return, a caller": (
        lambda s, k: [returns(s), s.pool.drain, must_get(s, k), connector(s, k)],
        {},
    ),
    "a drain and a return": (lambda s, k: [returns(s), s.pool.drain], {}),
    "a drain and two returns": (
        lambda s, k: [returns(s), returns(s), s.pool.drain],
        {"size": 2, "opened": 2},
    ),
    "a smaller pool, a return, a caller": (
        lambda s, k: [returns(s), lambda: s.pool.resize(0, 1), asks(s)],
        {"size": 2, "opened": 2},
    ),
    "a smaller pool and two returns": (
        lambda s, k: [returns(s), returns(s), lambda: s.pool.resize(0, 1)],
        {"size": 2, "opened": 2},
    ),
    "a larger pool and a caller": (
        lambda s, k: [
            s.hold(),
            lambda: s.pool.resize(0, 2),
            must_get(s, k),
            connector(s, k),
        ],
        {},
    ),
    "a check, a return, a caller": (
        lambda s, k: [returns(s), s.pool.check, asks(s)],
        {"size": 2, "opened": 2},
    ),
    "a check against a caller": (lambda s, k: [s.pool.check, asks(s)], {}),
    "a check against a caller in time": (lambda s, k: [s.pool.check, asks(s, TIMED)], {}),
    "a closing return and a caller": (
        lambda s, k: [returns(s, close=True), must_get(s, k), connector(s, k)],
        {},
    ),
    "a dropped connection and a caller": (
        lambda s, k: [drops(s), must_get(s, k), connector(s, k)],
        {},
    ),
    "a dropped connection found by two": (
        lambda s, k: [drops(s), lambda: inside.find_lost(s.pool), returns(s)],
        {"size": 2, "opened": 2},
    ),
    "two connects, a larger pool's second": (
        lambda s, k: [connects(s), connects(s), lambda: s.pool.resize(0, 1)],
        {"size": 2, "opened": 0},
    ),
    "a connect and a smaller pool": (
        lambda s, k: [connects(s), lambda: s.pool.resize(0, 1)],
        {"size": 2, "opened": 1},
    ),
    "close and close and a waiter": (
        lambda s, k: [s.hold(), lambda: s.pool.close(0), lambda: s.pool.close(0), asks(s)],
        {},
    ),
    "close and a waiter in time": (
        lambda s, k: [s.hold(), lambda: s.pool.close(0), asks(s, TIMED)],
        {},
    ),
    "close, a drain, a return": (
        lambda s, k: [lambda: s.pool.close(0), s.pool.drain, returns(s)],
        {"size": 2, "opened": 2},
    ),
    "close, a smaller pool, a return": (
        lambda s, k: [lambda: s.pool.close(0), lambda: s.pool.resize(0, 1), returns(s)],
        {"size": 2, "opened": 2},
    ),
    "close, a check": (
        lambda s, k: [lambda: s.pool.close(0), s.pool.check],
        {"size": 2, "opened": 2},
    ),
    "close, a dropped connection": (lambda s, k: [lambda: s.pool.close(0), drops(s)], {}),
    "close, a connect, a return": (
        lambda s, k: [lambda: s.pool.close(0), connects(s), returns(s)],
        {"size": 2},
    ),
    "cancelled asleep, a return": (lambda s, k: [is_cancelled(s, "asleep"), returns(s)], {}),
    "cancelled when served, a return": (lambda s, k: [is_cancelled(s, "served"), returns(s)], {}),
    "cancelled asleep, a return, another caller": (
        lambda s, k: [is_cancelled(s, "asleep"), returns(s), asks(s)],
        {},
    ),
    "cancelled when served, a return, another caller": (
        lambda s, k: [is_cancelled(s, "served"), returns(s), asks(s)],
        {},
    ),
    "cancelled when served, a connect, close": (
        lambda s, k: [is_cancelled(s, "served"), connects(s), lambda: s.pool.close(0)],
        {"opened": 0, "size": 1},
    ),
    "a timeout against a return and another caller": (
        lambda s, k: [asks(s, TIMED), returns(s), asks(s)],
        {},
    ),
}


def _marks(name: str, workers: Workers) -> list[pytest.MarkDecorator]:
    if "connector" in _names(workers):  # four threads step for minutes where three step for seconds
        return [pytest.mark.long]
    return [] if name in TELLING else [pytest.mark.exhaustive]


TELLING = (
    "a check against a caller",
    "a check, a return, a caller",
    "a drain and a return",
    "a smaller pool and two returns",
    "a timeout against a return and another caller",
    "cancelled asleep, a return",
    "cancelled when served, a return",
    "close and a waiter in time",
    "close, a dropped connection",
)
LINES = [pytest.param(name, marks=_marks(name, each[0])) for name, each in SCENES.items()]


def _scene(name: str, keeper: Keeper) -> tuple[Callable[[], Scene], int]:
    """Return how to set the scene, and how many threads there are in it."""
    workers, options = SCENES[name]
    threads = 0

    def make() -> Scene:
        nonlocal threads
        keeper.bell = None
        Scenery.cancelled.clear()
        scenery = Scenery(**options)
        functions = [function for function in workers(scenery, keeper) if function is not None]
        threads = len(functions)
        return functions, scenery.check

    make()
    return make, threads


@pytest.mark.usefixtures("cancelling")
@pytest.mark.parametrize(
    "more",
    [
        pytest.param(-1, id="one preemption fewer"),
        pytest.param(0, id="to the bound", marks=pytest.mark.exhaustive),
        pytest.param(1, id="one more", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
    ],
)
@pytest.mark.parametrize("name", SCENES)
def test_each_connection_is_in_one_place_and_nobody_is_forgotten(
    name: str, more: int, models: Keeper
) -> None:
    make, threads = _scene(name, models)
    bound = max(1, {2: 3, 3: 2, 4: 1}[threads] + more)
    assert schedule.explore(make, bound=bound, max_runs=2_000_000) > 10


@pytest.mark.usefixtures("cancelling")
@pytest.mark.parametrize(
    "bound", [1, pytest.param(2, marks=[pytest.mark.long, pytest.mark.timeout(1200)])]
)
@pytest.mark.parametrize("name", LINES)
def test_the_same_between_any_two_lines(name: str, bound: int, models: Keeper) -> None:
    make, _ = _scene(name, models)
    runs = schedule.explore(make, bound=bound, max_runs=2_000_000, lines=PACKAGE)
    assert runs > 10


# The test of the tests: each planted bug is found


def _bug_cancelled_keeps_what_came(patch: pytest.MonkeyPatch) -> str:
    inside.patch(patch, "offer_again", lambda queue, held: None)
    return "cancelled when served, a return, another caller"


def _bug_close_tells_nobody(patch: pytest.MonkeyPatch) -> str:
    inside.patch(patch, "answer_all", lambda queue, answer: None)
    return "close and close and a waiter"


def _bug_drain_writes_the_other_way_round(patch: pytest.MonkeyPatch) -> str:
    def expire(entry: Any, why: str) -> None:
        entry.why = why
        entry.good_until = entry.renew_at = 0.0
        entry.expires_at = 0.0

    inside.patch(patch, "mark_for_closing", expire)
    return "a drain and a return"


def _bug_a_larger_pool_wakes_no_connector(patch: pytest.MonkeyPatch) -> str:
    grow = inside.original("grow")

    def less(growth: Any) -> None:
        if growth.store.max_size == 1 and growth.store.entries:
            grow(growth)

    inside.patch(patch, "grow", less)
    return "a larger pool and a caller"


def _bug_a_closing_return_wakes_no_connector(patch: pytest.MonkeyPatch) -> str:
    inside.patch(patch, "retire_returned", lambda growth, *args: growth.store.close(*args))
    return "a closing return and a caller"


def _bug_a_connect_lies_down_beside_a_waiter(patch: pytest.MonkeyPatch) -> str:
    inside.patch(patch, "offer", lambda queue, held: queue.idle.append(held))
    return "a larger pool and a caller"


@pytest.mark.usefixtures("cancelling")
@pytest.mark.parametrize(
    "plant",
    [
        _bug_cancelled_keeps_what_came,
        _bug_close_tells_nobody,
        _bug_drain_writes_the_other_way_round,
        _bug_a_larger_pool_wakes_no_connector,
        _bug_a_closing_return_wakes_no_connector,
        _bug_a_connect_lies_down_beside_a_waiter,
    ],
    ids=lambda plant: plant.__name__.removeprefix("_bug_"),
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], str], models: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, threads = _scene(plant(monkeypatch), models)
    with pytest.raises(schedule.Violation):
        schedule.explore(make, bound={2: 3, 3: 2, 4: 1}[threads])
