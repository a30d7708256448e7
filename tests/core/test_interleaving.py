"""Every order in which a few threads can meet inside the pool leaves each connection in one place.

The pool's own code runs here, with models in place of its locks, its deques and its clock; between
any two of their operations another thread may come.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dbpool import (
    ConnectionPool,
    PoolClosed,
    PoolTimeout,
    _connecting,
    _ending,
    _growth,
    _handover,
    _lifecycle,
    _suspicion,
    _validation,
    _waiting,
)
from dbpool import pool as pool_module
from tests.support import schedule
from tests.support.stub_driver import StubDriver

Scene = tuple[Sequence[Callable[[], object]], Callable[[], object]]


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the models where the pool looks its primitives up."""
    clock = schedule.Clock()
    threading = SimpleNamespace(Lock=schedule.Lock, RLock=schedule.RLock)
    monkeypatch.setattr(schedule.Lock, "clock", clock)
    monkeypatch.setattr(_waiting, "threading", threading)
    monkeypatch.setattr(pool_module, "threading", threading)
    monkeypatch.setattr(pool_module, "deque", schedule.deque)
    monkeypatch.setattr(pool_module, "monotonic", clock.monotonic)
    time = SimpleNamespace(monotonic=clock.monotonic, sleep=lambda seconds: None)
    timed = (_connecting, _ending, _growth, _lifecycle, _suspicion, _validation, _waiting)
    for module in timed:
        monkeypatch.setattr(module, "time", time)
    # No thread of the pool's own (the real keeper would walk in between the steps), and no belt:
    # a lost wake-up must show as one.
    nobody = SimpleNamespace(
        inbox=SimpleNamespace(put=lambda entry: None),
        schedule=lambda pool, when: True,
        register=lambda pool: None,
        forget=lambda pool: None,
    )
    for module in (_connecting, _growth, _lifecycle, _suspicion, pool_module):
        monkeypatch.setattr(module, "keeper", nobody)
    monkeypatch.setattr(_waiting, "nap", lambda pool, now: schedule.FOREVER * 2)
    monkeypatch.setattr(_waiting, "_collect", lambda now: None)


class Scenery:
    """A pool with some connections open, and what is out of it."""

    def __init__(self, size: int = 1, opened: int = 1, **options: Any) -> None:
        self.driver = StubDriver()
        self.pool = ConnectionPool(driver=self.driver, max_size=size, **options)
        taken = []
        for _ in range(opened):
            attempt = _growth._reserve(self.pool) or self.attempt()
            _connecting.make(self.pool, attempt)
            taken.append(self.pool.getconn())
        for conn in taken:  # at times of their own: what the pool sorts, it sorts the same way
            assert schedule.Lock.clock is not None
            schedule.Lock.clock.now += 0.001
            self.pool.putconn(conn)
        self.in_use: set[int] = set()

    def attempt(self) -> _connecting.Attempt:
        """Reserve a slot as a connector does that somebody has asked for."""
        attempt = _connecting.Attempt(_waiting.time.monotonic(), 5.0)
        self.pool._connecting[id(attempt)] = weakref.ref(attempt)
        return attempt

    def borrow(self, timeout: float) -> None:
        """Take a connection and return it; nobody else may have it meanwhile."""
        conn = self.pool.getconn(timeout)
        assert conn.number not in self.in_use, "lent to two callers"
        self.in_use.add(conn.number)
        schedule.point("use")
        self.in_use.discard(conn.number)
        self.pool.putconn(conn)

    def borrow_or_not(self, timeout: float) -> None:
        try:
            self.borrow(timeout)
        except (PoolTimeout, PoolClosed):
            pass

    def check(self) -> None:
        pool = self.pool
        assert not pool._in_use, "still lent"
        pool._find_lost()
        pool._audit()
        assert pool.get_stats()["connections_dropped"] == 0, "a connection was lost"
        if not pool.closed:
            assert len(pool._idle) == len(pool._entries), "an open connection is not to be had"
        else:
            assert self.driver.open_connections == 0, "open after close"


UNTIMED, TIMED = schedule.FOREVER * 2, 1.0


def _scene(
    workers: Callable[[Scenery], Sequence[Callable[[], object]]], **options: Any
) -> Callable[[], Scene]:
    def make() -> Scene:
        scenery = Scenery(**options)
        return workers(scenery), scenery.check

    return make


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_two_callers_over_one_connection(timeout: float) -> None:
    scene = _scene(lambda s: [lambda: s.borrow_or_not(timeout)] * 2)
    assert schedule.explore(scene, bound=3) > 10


def test_untimed_callers_are_all_served() -> None:
    assert schedule.explore(_scene(lambda s: [lambda: s.borrow(UNTIMED)] * 3), bound=1) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
@pytest.mark.parametrize("bound", [1, pytest.param(2, marks=pytest.mark.long)])
def test_three_callers_over_two_connections(timeout: float, bound: int) -> None:
    scene = _scene(lambda s: [lambda: s.borrow_or_not(timeout)] * 3, size=2, opened=2)
    assert schedule.explore(scene, bound=bound) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_a_return_against_queueing(timeout: float) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box = [s.pool.getconn()]
        return [lambda: s.pool.putconn(box.pop()), lambda: s.borrow_or_not(timeout)]

    assert schedule.explore(_scene(workers), bound=3) > 10


@pytest.mark.parametrize("bound", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_newcomer_does_not_overtake_who_waited_before_a_return(bound: int) -> None:
    """Not even between two steps of the return: what is given back never lies idle before it."""

    def make() -> Scene:
        s = Scenery()
        box, served, newcomer, promised = [s.pool.getconn()], [], [], []

        def give() -> None:
            queued = len(s.pool._waiters) > 0
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

    assert schedule.explore(make, bound=bound) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_two_returns_and_two_callers(timeout: float) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        boxes = [[s.pool.getconn()], [s.pool.getconn()]]
        returns = [lambda box=box: s.pool.putconn(box.pop()) for box in boxes]
        return [*returns, *[lambda: s.borrow_or_not(timeout)] * 2]

    assert schedule.explore(_scene(workers, size=2, opened=2), bound=1) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_close_against_a_caller(timeout: float) -> None:
    scene = _scene(lambda s: [lambda: s.borrow_or_not(timeout), lambda: s.pool.close(0)])
    assert schedule.explore(scene) > 10


def test_close_against_a_return_and_a_waiter() -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box = [s.pool.getconn()]
        return [
            lambda: s.pool.putconn(box.pop()),
            lambda: s.borrow_or_not(UNTIMED),
            lambda: s.pool.close(0),
        ]

    assert schedule.explore(_scene(workers), bound=1) > 10


@pytest.mark.parametrize("action", ["drain", "resize"])
def test_administration_against_a_return(action: str) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box = [s.pool.getconn()]
        act = {"drain": s.pool.drain, "resize": lambda: s.pool.resize(0, 1)}[action]
        return [lambda: s.pool.putconn(box.pop()), act]

    scene = _scene(workers, size=2, opened=2)
    assert schedule.explore(scene) > 10


def test_a_drained_connection_is_not_handed_out_again() -> None:
    """A return that passes a drain must not write over what the drain wrote."""

    def make() -> Scene:
        s = Scenery()
        conn = s.pool.getconn()
        number, box = conn.number, [conn]
        del conn

        def check() -> None:
            # It may be idle still, if the drain had passed; whoever takes it closes it.
            left = [entry for found, entry in s.pool._idle if found.number == number]
            assert all(entry.good_until == 0 and entry.expires_at == 0 for entry in left)
            s.check()

        return [lambda: s.pool.putconn(box.pop()), s.pool.drain], check

    assert schedule.explore(make) > 10


@pytest.mark.parametrize("timeout", [UNTIMED, TIMED], ids=["untimed", "timed"])
def test_a_finished_connect_against_a_return_and_a_waiter(timeout: float) -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        box, attempt = [s.pool.getconn()], [s.attempt()]
        return [
            lambda: s.pool.putconn(box.pop()),
            lambda: _connecting.make(s.pool, attempt.pop()),
            lambda: s.borrow_or_not(timeout),
        ]

    assert schedule.explore(_scene(workers, size=2), bound=1) > 10


def test_a_finished_connect_against_close() -> None:
    def workers(s: Scenery) -> Sequence[Callable[[], object]]:
        attempt = [s.attempt()]
        return [lambda: _connecting.make(s.pool, attempt.pop()), lambda: s.pool.close(0)]

    assert schedule.explore(_scene(workers, size=2)) > 10


# -- the test of the tests: each planted bug is found


def _bug_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiting, "settle", lambda pool: 0)


def _bug_return_does_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def offer(pool: Any, held: Any) -> None:
        pool._idle.append(held)

    monkeypatch.setattr(_handover, "offer", offer)
    monkeypatch.setattr(_handover, "settle", lambda pool: 0)


def _bug_timeout_forgets_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    def withdraw(self: Any) -> Any:
        schedule.point("withdraw")
        answer = self._answer.get(0, _waiting.GONE)
        if answer is _waiting.GONE:
            schedule.point("between look and withdrawal")
        self._answer[0] = answer
        return answer

    monkeypatch.setattr(_waiting.Waiter, "withdraw", withdraw)


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
