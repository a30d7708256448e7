"""The same with real drivers, sockets, guards and the keeper; and no module is left out.

Which modules are reached is measured, against the files of the package: who adds one finds it
here, and gives it a scenario or says why it needs none.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolError, PoolTimeout
from dbpool.drivers import WrappedDriver
from tests.core import test_injection
from tests.core.test_injection import PACKAGE, Check, Run, full_capacity
from tests.support import inside
from tests.support.injection import POINTS, Injected, _Tracer, explore, quiet_collector
from tests.support.refusing_server import RefusingServer
from tests.support.servers import Postgres
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.wired_driver import WiredDriver

Scenario = Callable[[Run], Check]

ROOMS = ("_connect", "_lend", "_runtime", "_store", "_upkeep")
ELSEWHERE = {
    "__init__.py": "names only",
    **{f"{room}/__init__.py": "says what the room is for" for room in ROOMS},
    "stats.py": "reads what has been counted",
    "_store/audit.py": "for tests only",
    "_runtime/clock.py": "a name for a function that the interpreter has",
    "_runtime/deadline.py": "has no connection: tests/core/test_deadline_of_a_request.py",
    "health/document.py": "health checks are in nobody's way: tests/health",
    "_explained.py": "as _shown.py, for an operator",
    "adapters.py": "for the adapters, on what they have borrowed: their tests",
    "_store/settings.py": "made before there is a connection",
    "_runtime/frames.py": "empties an error's frames, before a pool is made or after it has failed",
    "_runtime/forks.py": "runs in a fork: tests/core/test_fork.py",
    "health/probe.py": "as health/document.py",
    "health/prober.py": "as health/document.py",
    "_upkeep/session.py": "for the adapters, on what they have borrowed: their tests",
    "_shown.py": "words an error, before a pool is made",
    "health/unavailable.py": "reads an error's numbers, for the adapters",
    "_unknown.py": "as _shown.py",
    "health/status.py": "as health/document.py",
    "health/wsgi.py": "as health/document.py",
    "health/__init__.py": "as health/document.py",
    "drivers/_statements.py": "reads text for the adapters: tests/drivers",
    "drivers/_watched.py": "for the adapters, on what they have borrowed: their tests",
    "drivers/_dry_run.py": "after a connect has failed, with no connection in its hands",
    "drivers/_bare.py": "looks at an object: tests/drivers/test_own_driver.py",
    "drivers/psycopg.py": "has an environment of its own: tests/drivers",
}

PATIENT = 60.0  # seconds; what is looked for is a slot that is lost, not one that comes late


def at_full_capacity(pool: ConnectionPool) -> Check:
    """Return a check: max_size connections can be had at once, no more, and the pool is whole."""

    def check(where: str) -> None:
        gc.collect()
        inside.find_lost(pool)
        inside.outage(pool).retry_at = 0.0
        taken = [pool.getconn(timeout=PATIENT) for _ in range(pool.max_size)]
        assert len({id(conn) for conn in taken}) == pool.max_size, "one connection lent twice"
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        for conn in taken:
            pool.putconn(conn)
        del conn
        taken.clear()
        pool.close()
        gc.collect()
        inside.find_lost(pool)
        inside.audit(pool)

    return check


def _pool(conninfo: str = "", **options: Any) -> ConnectionPool:
    patient = {"timeout": PATIENT, "connect_timeout": PATIENT}
    return ConnectionPool(conninfo, **{"max_size": 1, "background": False, **patient, **options})


# On real drivers: connect, use, roll back, put back, reset, ping, close


def _use(pool: ConnectionPool, sql: str = "SELECT 1") -> None:
    with pool.connection() as conn:
        one(conn, sql) if pool.driver.name != "sqlite3" else conn.execute(sql).fetchall()


def _first_use(conninfo: str) -> Scenario:
    def scenario(run: Run) -> Check:
        pool = _pool(conninfo)
        run(lambda: _use(pool))
        return at_full_capacity(pool)

    return scenario


def _first_use_after_silence(conninfo: str) -> Scenario:
    """The server is thought to say nothing, so the network is asked before it is connected to."""

    def scenario(run: Run) -> Check:
        pool = _pool(conninfo, down_wait=PATIENT)
        inside.outage(pool).name, inside.outage(pool).cause = inside.DOWN, "connect_timeout"
        inside.outage(pool).since = time.monotonic()
        run(lambda: _use(pool))
        is_whole = at_full_capacity(pool)

        def check(where: str) -> None:
            outage = inside.outage(pool)
            outage.server.answered(outage)  # as many attempts as the check needs
            is_whole(where)

        return check

    return scenario


def _return_of_a_mess(conninfo: str, **options: Any) -> Scenario:
    def scenario(run: Run) -> Check:
        pool = _pool(conninfo, **options)
        box = [pool.getconn()]
        if pool.driver.name == "sqlite3":
            box[0].isolation_level = None
        else:
            box[0].autocommit = True
        box[0].cursor().execute("BEGIN")
        run(lambda: pool.putconn(box.pop()))
        return at_full_capacity(pool)

    return scenario


def _asked_each_time(conninfo: str) -> Scenario:
    def scenario(run: Run) -> Check:
        pool = _pool(conninfo, validate="ping", check=lambda conn: None)
        _use(pool)
        run(lambda: _use(pool))
        return at_full_capacity(pool)

    return scenario


def _returned_by_close(conninfo: str) -> Scenario:
    """A use in a block, and one by somebody who closes what there is."""

    def scenario(run: Run) -> Check:
        pool = _pool(conninfo, close_returns=True)
        _use(pool)
        run(lambda: _use(pool))
        gc.collect()  # a connection of sqlite3 is part of a cycle
        run(lambda: pool.getconn().close())
        return at_full_capacity(pool)

    return scenario


def _checked(conninfo: str) -> Scenario:
    def scenario(run: Run) -> Check:
        pool = _pool(conninfo)
        _use(pool)
        run(pool.check)
        return at_full_capacity(pool)

    return scenario


def _held_too_long(conninfo: str) -> Scenario:
    """What the keeper does to a loan that has lasted longer than max_use."""

    def scenario(run: Run) -> Check:
        pool = _pool(conninfo, background=True, max_use=60.0)
        box = [pool.getconn(timeout=PATIENT)]
        limit = inside.use_limit(pool)
        assert limit is not None
        for seconds in (100.0, 200.0):
            run(partial(inside.upkeep, limit, time.monotonic() + seconds))
        pool.putconn(box.pop())
        return at_full_capacity(pool)

    return scenario


# What threads do elsewhere, here so that it can be traced


def _dead_by_its_socket(run: Run) -> Check:
    driver = WiredDriver()
    pool = _pool(driver=driver, max_size=2, validate_after=0)
    taken = [pool.getconn(), pool.getconn()]
    for conn in taken:
        pool.putconn(conn)
        conn.server_ends()
    del conn
    taken.clear()
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


def _guarded(run: Run) -> Check:
    """With the keeper's thread there: guards are armed and disarmed."""
    driver = StubDriver()
    pool = _pool(driver=driver, background=True, validate="ping", reset=lambda conn: None)
    pool.putconn(pool.getconn())
    run(lambda: pool.putconn(pool.getconn()))

    def check(where: str) -> None:
        full_capacity(pool, driver)(where)

    return check


def _overdue(run: Run) -> Check:
    """The keeper cuts what is past its deadline."""
    driver = WiredDriver()
    pool = _pool(driver=driver)
    box = [pool.getconn()]
    guard = inside.TimeLimit(driver, box[0], -1.0)
    keeper = inside.Scheduler()
    inside.peek(keeper, "guards")[id(guard)] = weakref.ref(guard)
    run(lambda: inside.peek(keeper, "sever_overdue")(time.monotonic()))
    inside.peek(keeper, "sever_overdue")(time.monotonic())
    pool.putconn(box.pop(), close=True)
    return full_capacity(pool, driver)


def _the_keeper_itself(run: Run) -> Check:
    """Its thread dies at any point: what it had in hand is back, and the next one goes on."""
    driver = StubDriver()
    pool = _pool(driver=driver, max_size=3, max_idle=0.0001)
    taken = [pool.getconn() for _ in range(3)]
    while taken:
        pool.putconn(taken.pop())
    keeper = inside.Scheduler()

    class Last:
        name, due = "last", -1.0

        def run(self, now: float) -> float:
            keeper.pools.clear()
            keeper.inbox.put(None)
            return now + 100

    last = Last()
    keeper.register(inside.task(pool))
    keeper.register(last)
    inside.put(pool, due=-1.0)
    run(inside.peek(keeper, "run"))
    return full_capacity(pool, driver)


def _opened_and_waited_for(run: Run) -> Check:
    driver = StubDriver()
    pool = _pool(driver=driver, min_size=1, max_size=2, open=False)
    run(lambda: pool.open(wait=True, timeout=PATIENT))
    pool.open()
    return full_capacity(pool, driver)


def _limited_use(run: Run) -> Check:
    driver = WiredDriver()
    pool = _pool(driver=driver, background=True, max_use=60.0)
    pool.putconn(pool.getconn())
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, driver)


def _conninfo_from_a_callable(run: Run) -> Check:
    pool = ConnectionPool(lambda: "sqlite://", driver="sqlite3", max_size=1, background=False)
    run(lambda: _use(pool))
    return at_full_capacity(pool)


def _refused_by_admission(run: Run) -> Check:
    """Of two who have waited for long the first is refused, and the second is served."""
    driver = StubDriver()
    pool = _pool(driver=driver, background=True, admission="codel")
    admission = inside.admission(pool)
    assert admission is not None
    inside.put(inside.peek(admission, "codel"), slow=True, ends=math.inf)
    box = [pool.getconn()]
    waiters = [inside.Waiter(time.monotonic() - 10.0) for _ in range(2)]
    inside.waiters(pool).extend(waiters)
    run(lambda: pool.putconn(box.pop()))
    inside.waiters(pool).clear()
    del waiters  # and with them what the second one got
    return full_capacity(pool, driver)


def _refused_by_the_keeper(run: Run) -> Check:
    driver = StubDriver()
    pool = _pool(driver=driver, background=True, admission="codel")
    admission = inside.admission(pool)
    assert admission is not None
    now = time.monotonic()
    inside.put(inside.peek(admission, "codel"), shortest=1.0, ends=now)
    box, waiter = [pool.getconn()], inside.Waiter(now - 10.0)
    inside.waiters(pool).append(waiter)
    inside.upkeep(admission, now)
    run(lambda: inside.upkeep(admission, now + 10.0))
    inside.waiters(pool).clear()
    pool.putconn(box.pop())
    return full_capacity(pool, driver)


def _on_a_driver_around_another(run: Run) -> Check:
    stub = StubDriver()
    pool = ConnectionPool(driver=WrappedDriver(stub), max_size=2, timeout=5, background=False)
    run(lambda: pool.putconn(pool.getconn()))
    return full_capacity(pool, stub)


def _refused_in_words_that_are_not_known(run: Run) -> Check:
    """The server is asked for the code: by a connect that is none of the pool's."""
    pytest.importorskip("psycopg2")
    server = RefusingServer("53300", "Het gaat niet")
    server.__enter__()
    pool = _pool(server.dsn(), driver="psycopg2", down_wait=0.0)

    def ask() -> None:
        with contextlib.suppress(PoolError):
            pool.getconn()

    run(ask)

    def check(where: str) -> None:
        server.__exit__()
        gc.collect()
        assert not inside.attempts(pool), "it still has its slot"
        inside.audit(pool)
        pool.close()

    return check


HERE: list[Scenario] = [
    _refused_in_words_that_are_not_known,
    _on_a_driver_around_another,
    _dead_by_its_socket,
    _guarded,
    _overdue,
    _the_keeper_itself,
    _opened_and_waited_for,
    _limited_use,
    _conninfo_from_a_callable,
    _refused_by_admission,
    _refused_by_the_keeper,
]

ON_DRIVERS: dict[str, Callable[[str], Scenario]] = {
    "first use": _first_use,
    "first use after silence": _first_use_after_silence,
    "return of a mess": _return_of_a_mess,
    "return of a mess, reset by discard": lambda c: _return_of_a_mess(c, reset="discard"),
    "asked each time": _asked_each_time,
    "returned by close": _returned_by_close,
    "checked": _checked,
    "held too long": _held_too_long,
}


@pytest.fixture(params=["psycopg2", "sqlite3"])
def conninfo(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite3":
        return f"sqlite:///{tmp_path / 'file.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url()


# A duplicate of a socket that is dropped half-way is closed all the same, and says so.
@pytest.mark.computes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("every", POINTS)
@pytest.mark.parametrize("scenario", HERE, ids=lambda s: s.__name__.strip("_"))
def test_an_exception_at_any_point_costs_no_slot(scenario: Scenario, every: int) -> None:
    with quiet_collector():
        assert explore(PACKAGE, scenario, every=every) > 3


# Not `computes`: those run on what others leave of the machine, and so would the server here.
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("every", POINTS)
@pytest.mark.parametrize("name", ON_DRIVERS)
def test_an_exception_at_any_point_of_a_driver_costs_no_slot(
    name: str, conninfo: str, every: int
) -> None:
    with quiet_collector():
        assert explore(PACKAGE, ON_DRIVERS[name](conninfo), every=every) > 3


class _Reach(_Tracer):
    """Notes in which files there are points, and raises nowhere."""

    def __init__(self) -> None:
        super().__init__(PACKAGE, 0)
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        before = self.seen
        answer = super().__call__(frame, event, arg)
        if self.seen > before:
            self.files.add(os.path.relpath(frame.f_code.co_filename, PACKAGE))
        return answer


def test_every_module_is_reached_by_a_scenario(postgres: Postgres, tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")  # whose modules are among them
    reach = _Reach()

    def run(function: Callable[[], object]) -> None:
        sys._getframe().f_trace_opcodes = True
        sys.settrace(reach)
        try:
            function()
        except Injected:
            pass
        finally:
            sys.settrace(None)

    conninfos = [postgres.url(), f"sqlite:///{tmp_path / 'file.db'}", "sqlite://"]
    on_drivers = [make(conninfo) for make in ON_DRIVERS.values() for conninfo in conninfos]
    for scenario in [*test_injection.SCENARIOS, *HERE, *on_drivers]:
        scenario(run)("without an exception")
    there = {str(path.relative_to(PACKAGE)) for path in Path(PACKAGE).rglob("*.py")}
    assert ELSEWHERE.keys() <= there, "gone: no reason is needed any more"
    unreached = there - reach.files - ELSEWHERE.keys()
    assert not unreached, "no exception is raised in these: add a scenario, or say why not"
