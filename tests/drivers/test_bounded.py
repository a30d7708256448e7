"""What the pool itself does on a connection ends at its deadline, whatever does not answer.

Neither keepalives nor tcp_user_timeout are there to help: only the pool's own deadline is.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolTimeout
from testproject.postgres import PostgresServer
from tests.drivers.conftest import needs_psycopg, run
from tests.support import lost_packets
from tests.support.callers import PATIENCE, MakePool, expect_full_capacity, in_thread
from tests.support.fault_proxy import FaultProxy
from tests.support.lost_packets import LossyLink
from tests.support.waiting import wait_until

pytestmark = pytest.mark.outage

DEADLINE = 0.3
# Seconds in which a thread that only wants to run now and then gets to run; on a busy machine it
# waits for its turn, and that is no fault of the pool's: see `Heartbeat.expect_no_stall`.
STALL = 1.0
# Nothing of the kernel's and of libpq's that could end a wait in the pool's place.
ALONE = {"keepalives": 0, "tcp_user_timeout": 0}
# Under TLS a driver's read and write wait for more than the socket.
SSLMODES = [
    pytest.param("require", id="tls"),
    pytest.param("disable", id="plain", marks=pytest.mark.exhaustive),
]


@dataclass
class Silence:
    """A server, how to reach it, and how it falls silent."""

    server: PostgresServer
    address: dict[str, Any]
    begin: Callable[[], object]
    end: Callable[[], object]


@pytest.fixture(scope="module")
def tls_server() -> Iterator[PostgresServer]:
    with PostgresServer(ssl=True) as server:
        yield server


@pytest.fixture(scope="module")
def ways(tls_server: PostgresServer) -> Iterator[dict[str, Silence]]:
    """Each way in which a server falls silent, as far as this machine can have it."""
    upstream = ("127.0.0.1", tls_server.port)
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(upstream))
        found = {
            "stopped": Silence(tls_server, {}, tls_server.freeze, tls_server.thaw),
            "nobody reads": Silence(
                tls_server, {"host": proxy.host, "port": proxy.port}, proxy.blackhole, proxy.restore
            ),
        }
        if not lost_packets.missing():
            link = stack.enter_context(LossyLink(upstream))
            address = {"host": link.host, "port": link.port}
            found["packets lost"] = Silence(tls_server, address, link.lose, link.heal)
        yield found


@pytest.fixture(params=["stopped", "packets lost", "nobody reads"])
def silence(request: pytest.FixtureRequest, ways: dict[str, Silence]) -> Iterator[Silence]:
    if request.param not in ways:
        pytest.skip(lost_packets.missing())
    ways[request.param].server.ensure_running()
    yield ways[request.param]
    ways[request.param].end()


class Heartbeat:
    """A thread that wants to run all the time, and notes how long it could not: a frozen GIL.

    Time in which a thread of this process was only waiting for a processor is the machine's, and
    not counted, where the kernel tells (Linux).
    """

    def __enter__(self) -> Heartbeat:
        self.longest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        last, queued = time.monotonic(), _queued()
        while not self._ended.wait(0.01):
            now, waited = time.monotonic(), _queued()
            theirs = sum(time - queued.get(thread, 0.0) for thread, time in waited.items())
            self.longest = max(self.longest, now - last - theirs)
            last, queued = now, waited

    def expect_no_stall(self, quiet: float) -> None:
        """Fail if it stood still, longer than without the fault by far."""
        assert self.longest < max(STALL, 20 * quiet), f"all threads stood for {self.longest:.2f} s"


def _queued() -> dict[str, float]:
    """Return how long each thread of this process has been ready, with no processor free."""
    found = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # it has ended
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return found


@dataclass
class Watch:
    """Who has used each connection last, and what was done that must not be."""

    users: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def used(self, conn: Any) -> None:
        self.users[id(conn)] = threading.get_ident()

    def closes(self, conn: Any) -> None:
        if self.users.get(id(conn), threading.get_ident()) != threading.get_ident():
            self.problems.append("closed by another thread than that which is at work in it")

    def cancels(self, conn: Any) -> None:
        self.problems.append("cancelled")


@pytest.fixture(params=["psycopg2", pytest.param("psycopg", marks=needs_psycopg)])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def watch(driver: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Watch, dict[str, Any]]:
    """Return the spy, and what the driver's connect function needs for it."""
    spy = Watch()
    if driver == "psycopg2":
        from psycopg2.extensions import connection
    else:
        from psycopg import Connection as connection

    def watching(name: str, note: Callable[[Any], None]) -> Callable[..., Any]:
        original = getattr(connection, name)

        def method(conn: Any, *args: Any, **kwargs: Any) -> Any:
            note(conn)
            return original(conn, *args, **kwargs)

        return method

    methods = {
        "cursor": watching("cursor", spy.used),
        "rollback": watching("rollback", spy.used),
        "close": watching("close", spy.closes),
        "cancel": watching("cancel", spy.cancels),
    }
    if driver == "psycopg2":
        return spy, {"connection_factory": type("Watched", (connection,), methods)}
    for name, method in methods.items():
        monkeypatch.setattr(connection, name, method)
    return spy, {}


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Write a figure down, for whoever reads the report (`--junitxml`); it decides nothing."""
    return lambda name, value: request.node.user_properties.append((name, round(value, 3)))


# The pool's own operations: the options for it, what its borrower leaves behind, and what is done.

Operation = tuple[dict[str, Any], Callable[[Any], object], Callable[[ConnectionPool, Any], object]]


def ask(conn: Any) -> None:
    run(conn, "SELECT 1")


def ask_and_commit(conn: Any) -> None:
    run(conn, "SELECT 1")
    conn.commit()


def acquire(pool: ConnectionPool, conn: Any) -> None:
    """Give the connection back, and take one that is not to be had in time."""
    pool.putconn(conn)
    time.sleep(0.001)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=DEADLINE)


def give_back(pool: ConnectionPool, conn: Any) -> None:
    pool.putconn(conn)


def close(pool: ConnectionPool, conn: Any) -> None:
    pool.putconn(conn, close=True)


def check(pool: ConnectionPool, conn: Any) -> None:
    pool.putconn(conn)
    pool.check()


def raw_begin(conn: Any) -> None:
    conn.autocommit = True
    run(conn, "BEGIN")


def change(conn: Any) -> None:
    conn.autocommit = False
    conn.isolation_level = 1


def as_in_autocommit(conn: Any) -> None:
    conn.autocommit = True
    conn.isolation_level = 4


def nothing(conn: Any) -> None:
    pass


OPERATIONS: dict[str, Operation] = {
    "ping before lending": ({"validate": "ping"}, nothing, acquire),
    "ping by check()": ({}, nothing, check),
    "check of the user's": ({"check": ask_and_commit}, nothing, acquire),
    "rollback": ({}, ask, give_back),
    "rollback in autocommit": ({}, raw_begin, give_back),
    "restore": ({"configure": as_in_autocommit}, change, give_back),
    "reset of the user's": ({"reset": ask_and_commit}, nothing, give_back),
    "reset by DISCARD ALL": ({"reset": "discard"}, nothing, give_back),
    "close": ({}, nothing, close),
    "close in a transaction": ({}, ask, close),
}


@pytest.mark.parametrize("sslmode", SSLMODES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_ends_at_its_deadline_and_its_slot_is_free(
    operation: str,
    sslmode: str,
    silence: Silence,
    driver: str,
    watch: tuple[Watch, dict[str, Any]],
    new_pool: MakePool,
    note: Callable[[str, float], None],
) -> None:
    options, leave, act = OPERATIONS[operation]
    spy, kwargs = watch
    pool = new_pool(
        silence.server.dsn(**{**silence.address, "sslmode": sslmode, **ALONE}),
        driver=driver,
        kwargs=kwargs,
        max_size=1,
        validate_after=0,
        ping_timeout=DEADLINE,
        connect_timeout=2,
        timeout=PATIENCE,
        **options,
    )
    conn = pool.getconn()
    leave(conn)
    spy.users.clear()  # at work in it is who comes now
    with Heartbeat() as before:
        time.sleep(DEADLINE)
    silence.begin()
    started = time.monotonic()
    with Heartbeat() as heart:
        in_thread(act, pool, conn).result(PATIENCE)
    note("seconds", time.monotonic() - started)
    note("longest_gap", heart.longest)
    heart.expect_no_stall(before.longest)
    assert spy.problems == []
    silence.end()
    del conn
    expect_full_capacity(pool)


@pytest.mark.parametrize("sslmode", SSLMODES)
@pytest.mark.parametrize("operation", ["connect", "configure"])
def test_a_connect_ends_at_its_deadline_and_its_slot_is_free(
    operation: str,
    sslmode: str,
    silence: Silence,
    driver: str,
    watch: tuple[Watch, dict[str, Any]],
    new_pool: MakePool,
    note: Callable[[str, float], None],
) -> None:
    spy, kwargs = watch
    silent = threading.Event()

    def configure(conn: Any) -> None:
        if operation == "configure" and not silent.is_set():
            silent.set()
            silence.begin()
            ask_and_commit(conn)

    pool = new_pool(
        silence.server.dsn(**{**silence.address, "sslmode": sslmode, **ALONE}),
        driver=driver,
        kwargs=kwargs,
        max_size=1,
        configure=configure,
        connect_timeout=2,
        timeout=PATIENCE,
    )
    with Heartbeat() as before:
        time.sleep(DEADLINE)
    if operation == "connect":
        silence.begin()
    started = time.monotonic()
    with Heartbeat() as heart:
        with pytest.raises(PoolTimeout):
            in_thread(pool.getconn, DEADLINE).result(PATIENCE)
        wait_until(
            lambda: pool.get_stats()["connections_errors"],
            PATIENCE,
            "the connect ends, though nothing answers",
        )
    note("seconds", time.monotonic() - started)
    note("longest_gap", heart.longest)
    heart.expect_no_stall(before.longest)
    assert spy.problems == []
    silence.end()
    expect_full_capacity(pool)


# Without a socket

FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.mark.parametrize("hook", ["reset", "check", "configure"])
@pytest.mark.parametrize("statements", [1, 3])
def test_sqlite_statements_of_callbacks_end_at_the_deadline(
    hook: str, statements: int, new_pool: MakePool, tmp_path: Path
) -> None:
    """Also those that begin when it has passed."""
    ended: list[BaseException] = []
    stuck = threading.Event()

    def work(conn: Any) -> None:
        if stuck.is_set():
            for _ in range(statements):
                try:
                    run(conn, FOREVER)
                except sqlite3.OperationalError as error:
                    ended.append(error)
            raise ended[-1]

    pool = new_pool(
        f"sqlite:///{tmp_path / 'file.db'}",
        max_size=1,
        ping_timeout=DEADLINE,
        connect_timeout=DEADLINE,
        timeout=PATIENCE,
        **{hook: work},
    )
    conn = pool.getconn()
    stuck.set()
    pool.putconn(conn, close=hook == "configure")
    if hook != "reset":
        with pytest.raises(PoolTimeout):
            in_thread(pool.getconn, DEADLINE).result(PATIENCE)
    wait_until(lambda: len(ended) >= statements, PATIENCE)
    assert {str(error) for error in ended} == {"interrupted"}
    stuck.clear()
    del conn
    expect_full_capacity(pool)
