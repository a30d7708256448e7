"""No exception at any point of the pool's code costs a slot; at most the connection in hand."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import dbpool
from dbpool import ConnectionPool, PoolDown, PoolTimeout
from tests.support import inside
from tests.support.injection import POINTS, explore, quiet_collector
from tests.support.stub_driver import StubDriver, StubError

# All computing, and so as slow as whatever runs beside it lets it be.
pytestmark = pytest.mark.computes

PACKAGE = os.path.dirname(dbpool.__file__) + os.sep
Run = Callable[[Callable[[], object]], None]
Check = Callable[[str], None]


def make(max_size: int = 2, **options: Any) -> tuple[ConnectionPool, StubDriver]:
    driver = StubDriver()
    options.setdefault("background", False)  # everything happens in the thread that is traced
    return ConnectionPool(driver=driver, max_size=max_size, timeout=5, **options), driver


def full_capacity(pool: ConnectionPool, driver: StubDriver) -> Check:
    """Return a check: max_size connections can be had, one by one, and no more exist."""

    def check(where: str) -> None:
        gc.collect()
        inside.find_lost(pool)
        inside.outage(pool).retry_at = 0.0  # the interrupted connect may have put the next one off
        taken = [pool.getconn(timeout=10) for _ in range(pool.max_size)]
        assert len({id(conn) for conn in taken}) == pool.max_size, "one connection lent twice"
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        for conn in taken:
            pool.putconn(conn)
        inside.audit(pool)
        assert driver.open_connections <= pool.max_size, "a connection is open and unknown"
        pool.close()
        gc.collect()
        assert driver.open_connections == 0, "a connection outlives the pool"

    return check


def _first_connect(run: Run) -> Check:
    pool, driver = make()
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


def _reuse(run: Run) -> Check:
    pool, driver = make()
    pool.putconn(pool.getconn())
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


def _with_block(run: Run) -> Check:
    pool, driver = make()
    pool.putconn(pool.getconn())

    def use() -> None:
        with pool.connection() as conn:
            driver.begin(conn)

    run(use)
    return full_capacity(pool, driver)


def _with_block_and_error(run: Run) -> Check:
    pool, driver = make()
    pool.putconn(pool.getconn())

    def use() -> None:
        try:
            with pool.connection() as conn:
                driver.begin(conn)
                raise StubError("the user's own")
        except StubError:
            pass

    run(use)
    return full_capacity(pool, driver)


def _dirty_return(run: Run) -> Check:
    pool, driver = make(reset=lambda conn: None)
    conn = pool.getconn()
    driver.begin(conn)
    conn.setting = "changed"
    box = [conn]
    del conn
    run(lambda: pool.putconn(box.pop()))
    return full_capacity(pool, driver)


def _return_to_close(run: Run) -> Check:
    pool, driver = make()
    box = [pool.getconn()]
    run(lambda: pool.putconn(box.pop(), close=True))
    return full_capacity(pool, driver)


def _expired_at_return(run: Run) -> Check:
    pool, driver = make()
    box = [pool.getconn()]
    pool.drain()
    run(lambda: pool.putconn(box.pop()))
    return full_capacity(pool, driver)


def _dead_at_checkout(run: Run) -> Check:
    pool, driver = make(validate="ping")
    taken = [pool.getconn(), pool.getconn()]
    for conn in taken:
        conn.alive = False
        pool.putconn(conn)
    del taken, conn
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


def _user_check(run: Run) -> Check:
    pool, driver = make(check=lambda conn: None)
    pool.putconn(pool.getconn())
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


def _configured_connect(run: Run) -> Check:
    pool, driver = make(configure=lambda conn: None)
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


def _failing_connect(run: Run) -> Check:
    pool, driver = make()

    def refuse(_: object) -> None:
        raise StubError("connect_refused")

    driver.hooks["connect"] = refuse

    def use() -> None:
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.01)

    run(use)
    driver.hooks.clear()
    return full_capacity(pool, driver)


def _time_out(run: Run) -> Check:
    pool, driver = make(max_size=1)
    held = [pool.getconn()]

    def use() -> None:
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.002)

    run(use)
    pool.putconn(held.pop())
    return full_capacity(pool, driver)


def _served_while_waiting(run: Run) -> Check:
    pool, driver = make(max_size=1)
    held = [pool.getconn()]

    def give_back() -> None:
        until = time.monotonic() + 2
        while not inside.waiters(pool) and time.monotonic() < until and not done.is_set():
            time.sleep(0.0002)
        pool.putconn(held.pop())

    done = threading.Event()
    helper = threading.Thread(target=give_back)
    helper.start()
    run(lambda: pool.putconn(pool.getconn()))
    done.set()
    helper.join()
    return full_capacity(pool, driver)


def _hand_to_a_waiter(run: Run) -> Check:
    pool, driver = make(max_size=1)
    held = [pool.getconn()]
    waiter = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
    waiter.start()
    while not inside.waiters(pool):
        time.sleep(0.0002)
    run(lambda: pool.putconn(held.pop()))
    held.clear()
    gc.collect()
    inside.find_lost(pool)
    waiter.join(10)
    assert not waiter.is_alive(), "the waiter was forgotten"
    return full_capacity(pool, driver)


def _dropped(run: Run) -> Check:
    pool, driver = make(max_size=1)
    pool.getconn()
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


class _Dead:
    @staticmethod
    def is_alive() -> bool:
        return False


def _reclaimed(run: Run) -> Check:
    pool, driver = make(max_size=1)
    conn = pool.getconn()
    pool.own(conn, _Dead())
    run(lambda: pool.putconn(pool.getconn()))
    del conn
    return full_capacity(pool, driver)


def _upkeep(run: Run) -> Check:
    pool, driver = make(max_size=3, min_size=1, max_idle=0.001)
    taken = [pool.getconn() for _ in range(3)]
    taken.reverse()
    while taken:
        pool.putconn(taken.pop())
    time.sleep(0.002)
    run(lambda: inside.upkeep(pool, time.monotonic()))
    return full_capacity(pool, driver)


def _administration(name: str) -> Callable[[Run], Check]:
    def scenario(run: Run) -> Check:
        pool, driver = make(max_size=3)
        taken = [pool.getconn() for _ in range(3)]
        for conn in taken[1:]:
            pool.putconn(conn)
        lent = [taken[0]]
        del taken, conn
        calls: dict[str, Callable[[], object]] = {
            "drain": pool.drain,
            "check": pool.check,
            "resize": lambda: pool.resize(0, 2),
        }
        run(calls[name])
        pool.putconn(lent.pop())
        return full_capacity(pool, driver)

    scenario.__name__ = f"_{name}"
    return scenario


def _down(run: Run) -> Check:
    pool, driver = make(down_wait=0.0)

    def refuse(_: object) -> None:
        raise StubError("connect_refused")

    driver.hooks["connect"] = refuse

    def use() -> None:
        with pytest.raises(PoolDown):
            pool.getconn()

    run(use)
    driver.hooks.clear()
    inside.outage(pool).since = time.monotonic() + 1.0  # the check has a second to see it recover
    return full_capacity(pool, driver)


def _recovering(run: Run) -> Check:
    pool, driver = make()
    pool.pause()
    pool.resume()
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


def _pause(run: Run) -> Check:
    pool, driver = make(max_size=3)
    taken = [pool.getconn() for _ in range(3)]
    for conn in taken[1:]:
        pool.putconn(conn)
    lent = [taken[0]]
    del taken, conn

    def use() -> None:
        pool.pause()
        pool.resume()

    run(use)
    pool.resume()
    pool.putconn(lent.pop())
    return full_capacity(pool, driver)


def _reported(run: Run) -> Check:
    pool, driver = make(validate_after=1000)
    taken = [pool.getconn(), pool.getconn()]
    box = [taken.pop()]
    pool.putconn(taken.pop())
    box[0].alive = False

    def use() -> None:
        pool.report(box[0], StubError("gone"))
        pool.putconn(box.pop())
        pool.putconn(pool.getconn())

    run(use)
    return full_capacity(pool, driver)


def _connector_thread(run: Run) -> Check:
    """The body of a connector thread, run here so that it can be traced."""
    pool, driver = make()
    waiter = threading.Thread(target=_take_one, args=(pool,))
    inside.outage(pool).retry_at = time.monotonic() + 60  # the waiter itself must not connect
    waiter.start()
    while not inside.waiters(pool):
        time.sleep(0.0002)
    inside.outage(pool).retry_at = 0.0
    run(lambda: inside.connect_all(pool))
    inside.outage(pool).retry_at = 0.0
    inside.connect_all(pool)
    waiter.join(10)
    assert not waiter.is_alive(), "the waiter was forgotten"
    return full_capacity(pool, driver)


def _take_one(pool: ConnectionPool) -> None:
    pool.putconn(pool.getconn(timeout=10))


SCENARIOS: list[Callable[[Run], Check]] = [
    _first_connect,
    _reuse,
    _with_block,
    _with_block_and_error,
    _dirty_return,
    _return_to_close,
    _expired_at_return,
    _dead_at_checkout,
    _user_check,
    _configured_connect,
    _failing_connect,
    _time_out,
    _served_while_waiting,
    _hand_to_a_waiter,
    _dropped,
    _reclaimed,
    _upkeep,
    _administration("drain"),
    _administration("check"),
    _administration("resize"),
    _down,
    _recovering,
    _pause,
    _reported,
    _connector_thread,
]


@pytest.mark.parametrize("every", POINTS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__.strip("_"))
def test_an_exception_at_any_point_costs_no_slot(
    scenario: Callable[[Run], Check], every: int
) -> None:
    with quiet_collector():
        points = explore(PACKAGE, scenario, every=every)
    assert points > 3, "the scenario executes nothing of the pool"


def test_an_exception_at_any_point_of_close_leaves_nothing_open() -> None:
    def scenario(run: Run) -> Check:
        pool, driver = make(max_size=2)
        pool.putconn(pool.getconn())
        run(pool.close)

        def check(where: str) -> None:
            pool.close()
            gc.collect()
            inside.audit(pool)
            assert driver.open_connections == 0

        return check

    with quiet_collector():
        explore(PACKAGE, scenario)
