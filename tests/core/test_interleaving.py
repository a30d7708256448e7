"""Every order in which a few threads can meet inside the pool leaves each connection in one place.

The pool's own code runs here, with models in place of its locks, its deques and its clock; between
any two of their operations another thread may come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolTimeout
from tests.support import inside, schedule
from tests.support.scenery import (
    TIMED,
    UNTIMED,
    Explore,
    Scene,
    Scenery,
    explore,
    models,
    step_suspicions,
)

__all__ = ["explore", "models"]

# All computing, and so as slow as whatever runs beside it lets it be.
pytestmark = pytest.mark.computes


def _scene(
    workers: Callable[[Scenery], Sequence[Callable[[], object]]], **options: Any
) -> Callable[[], Scene]:
    def make() -> Scene:
        scenery = Scenery(**options)
        return workers(scenery), scenery.check

    return make


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_two_callers_over_one_connection(timeout: float, explore: Explore) -> None:
    scene = _scene(lambda s: [lambda: s.borrow_or_not(timeout)] * 2)
    assert explore(scene, bound=3) > 10


def test_untimed_callers_are_all_served(explore: Explore) -> None:
    assert explore(_scene(lambda s: [lambda: s.borrow(UNTIMED)] * 3), bound=2) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_three_callers_over_two_connections(timeout: float, explore: Explore) -> None:
    scene = _scene(lambda s: [lambda: s.borrow_or_not(timeout)] * 3, size=2, opened=2)
    assert explore(scene, bound=2) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_a_return_against_queueing(timeout: float, explore: Explore) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box = [s.pool.getconn()]
        return [lambda: s.pool.putconn(box.pop()), lambda: s.borrow_or_not(timeout)]

    assert explore(_scene(workers), bound=3) > 10


def test_a_return_as_the_first_short_sleep_of_a_caller_ends(
    monkeypatch: pytest.MonkeyPatch, explore: Explore
) -> None:
    """One that asks a full pool sleeps twice: before it sees to anything, and after."""
    inside.patch(monkeypatch, "FIRST_NAP", TIMED)

    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box = [s.pool.getconn()]
        return [lambda: s.pool.putconn(box.pop()), lambda: s.borrow(UNTIMED)]

    assert explore(_scene(workers), bound=3) > 10


def test_a_newcomer_does_not_overtake_who_waited_before_a_return(explore: Explore) -> None:
    """Not even between two steps of the return: what is given back never lies idle before it."""

    def make() -> Scene:
        s = Scenery()
        box, served, newcomer, promised = [s.pool.getconn()], [], [], []

        def give() -> None:
            queued = len(inside.waiters(s.pool)) > 0
            promised.append(queued and not newcomer)
            s.pool.putconn(box.pop())

        def wait() -> None:
            conn = s.pool.getconn(UNTIMED)
            served.append("waiter")
            s.pool.putconn(conn)

        def come() -> None:
            newcomer.append(True)
            try:
                conn = s.pool.getconn(0)
            except PoolTimeout:
                return
            served.append("newcomer")
            s.pool.putconn(conn)

        def check() -> None:
            s.check()
            assert served[0] == "waiter" or not promised[0]

        return [give, wait, come], check

    assert explore(make, bound=2) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_two_returns_and_two_callers(timeout: float) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        boxes = [[s.pool.getconn()], [s.pool.getconn()]]
        returns = [lambda box=box: s.pool.putconn(box.pop()) for box in boxes]
        return [*returns, *[lambda: s.borrow_or_not(timeout)] * 2]

    assert schedule.explore(_scene(workers, size=2, opened=2), bound=1) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_close_against_a_caller(timeout: float, explore: Explore) -> None:
    scene = _scene(lambda s: [lambda: s.borrow_or_not(timeout), lambda: s.pool.close(0)])
    assert explore(scene, bound=3) > 10


def test_close_against_a_return_and_a_waiter(explore: Explore) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box = [s.pool.getconn()]
        return [
            lambda: s.pool.putconn(box.pop()),
            lambda: s.borrow_or_not(UNTIMED),
            lambda: s.pool.close(0),
        ]

    assert explore(_scene(workers), bound=2) > 10


@pytest.mark.parametrize("returned", [1, 2])
def test_what_a_suspicion_takes_no_return_gives_back(
    returned: int, monkeypatch: pytest.MonkeyPatch, explore: Explore
) -> None:
    """Not even one that has begun before: each is asked before it is lent next."""
    step_suspicions(monkeypatch)

    def make() -> Scene:
        s = Scenery(size=2, opened=2)
        boxes = [[s.pool.getconn()] for _ in range(returned)]

        def check() -> None:
            s.check()
            assert all(entry.good_until == 0 for entry in inside.entries(s.pool)), (
                "lent without a ping"
            )
            pings: list[Any] = []
            s.driver.hooks["ping"] = pings.append
            for conn in [s.pool.getconn() for _ in range(2)]:
                s.pool.putconn(conn)
            assert len(pings) == 2
            assert all(entry.good_until > 0 for entry in inside.entries(s.pool)), (
                "never trusted again"
            )

        suspect = lambda: inside.mark_all_untrusted(s.pool)  # noqa: E731
        return [*[lambda box=box: s.pool.putconn(box.pop()) for box in boxes], suspect], check

    assert explore(make, bound=3 if returned == 1 else 2) > 10


def pause_and_resume(pool: ConnectionPool) -> None:
    pool.pause()
    pool.resume()


@pytest.mark.parametrize("action", ["drain", "resize", "pause"])
def test_administration_against_a_return(action: str, explore: Explore) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box = [s.pool.getconn()]
        act: Callable[[], object] = {
            "drain": s.pool.drain,
            "resize": lambda: s.pool.resize(0, 1),
            "pause": lambda: pause_and_resume(s.pool),
        }[action]
        return [lambda: s.pool.putconn(box.pop()), act]

    scene = _scene(workers, size=2, opened=2)
    assert explore(scene, bound=3) > 10


def test_a_pause_against_a_return_and_a_waiter() -> None:
    """A connection that was open at the pause is lent to nobody after it."""

    def make() -> Scene:
        s = Scenery()
        lent = [s.pool.getconn()]
        old, paused = lent[0].number, []

        def pause() -> None:
            s.pool.pause()
            paused.append(True)
            schedule.point("paused")
            s.pool.resume()

        def borrow() -> None:
            late = bool(paused)
            try:
                conn = s.pool.getconn(TIMED)
            except PoolTimeout:  # nobody connects here
                return
            assert not (late and conn.number == old), "it was open at the pause"
            s.pool.putconn(conn)

        return [lambda: s.pool.putconn(lent.pop()), pause, borrow], s.check

    assert schedule.explore(make, bound=1) > 10


def test_a_drained_connection_is_not_handed_out_again(explore: Explore) -> None:
    """A return that passes a drain must not write over what the drain wrote."""

    def make() -> Scene:
        s = Scenery()
        conn = s.pool.getconn()
        number, box = conn.number, [conn]
        del conn

        def check() -> None:
            # It may be idle still, if the drain had passed; whoever takes it closes it.
            left = [entry for found, entry in inside.idle(s.pool) if found.number == number]
            assert all(entry.good_until == 0 and entry.expires_at == 0 for entry in left)
            s.check()

        return [lambda: s.pool.putconn(box.pop()), s.pool.drain], check

    assert explore(make, bound=3) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_a_finished_connect_against_a_return_and_a_waiter(timeout: float, explore: Explore) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box, attempt = [s.pool.getconn()], [s.attempt()]
        return [
            lambda: s.pool.putconn(box.pop()),
            lambda: inside.make(s.pool, attempt.pop()),
            lambda: s.borrow_or_not(timeout),
        ]

    assert explore(_scene(workers, size=2), bound=2) > 10


def test_a_finished_connect_against_close(explore: Explore) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        attempt = [s.attempt()]
        return [lambda: inside.make(s.pool, attempt.pop()), lambda: s.pool.close(0)]

    assert explore(_scene(workers, size=2), bound=3) > 10


# -- the test of the tests: each planted bug is found


def _bug_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    inside.patch(monkeypatch, "match_for_a_waiter", lambda queue: 0)


def _bug_return_does_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def offer(queue: Any, held: Any) -> None:
        queue.idle.append(held)

    inside.patch(monkeypatch, "offer", offer)
    inside.patch(monkeypatch, "match", lambda queue: 0)


def _bug_timeout_forgets_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    def withdraw(self: Any) -> Any:
        schedule.point("withdraw")
        answer = self._answer.get(0, inside.GONE)
        if answer is inside.GONE:
            schedule.point("between look and withdrawal")
        self._answer[0] = answer
        return answer

    inside.patch(monkeypatch, "Waiter.withdraw", withdraw)


@pytest.mark.parametrize(
    "plant",
    [_bug_no_second_look, _bug_return_does_not_look_again, _bug_timeout_forgets_what_came],
    ids=lambda f: f.__name__.removeprefix("_bug_"),
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)

    def workers(timeout: float) -> Callable[[Scenery], Sequence[Callable[[], object]]]:
        def make(s: Scenery) -> Sequence[Callable[[], object]]:
            box = [s.pool.getconn()]
            return [lambda: s.pool.putconn(box.pop()), lambda: s.borrow_or_not(timeout)]

        return make

    def hunt() -> None:
        for timeout in (UNTIMED, TIMED):
            schedule.explore(_scene(workers(timeout)), bound=3)

    with pytest.raises(schedule.Violation):
        hunt()
