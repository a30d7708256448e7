"""No dead connection is handed out, and no living one is asked more than it takes to know."""

from __future__ import annotations

import select
import threading
import time
from itertools import pairwise
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectionPool, PoolDown, PoolTimeout
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    settled,
    unseen_by_the_keeper,
)
from tests.support.servers import Postgres
from tests.support.sessions import last_query, one, run_sql, terminate
from tests.support.stub_driver import StubConnection, StubDriver, StubError
from tests.support.waiting import wait_until


def fill(pool: ConnectionPool, count: int) -> list[int]:
    """Have so many idle connections; return their sessions."""
    with lent(pool, count) as taken:
        return [conn.info.backend_pid for conn in taken]


def talk(pool: ConnectionPool) -> int:
    """Ask a question as a caller does; return the session that answered."""
    with pool.connection() as conn:
        assert one(conn, "SELECT 42") == 42
        return int(conn.info.backend_pid)


class Counted:
    """Counts the pings of a stub, and the looks at it."""

    def __init__(self, stub: StubDriver) -> None:
        self.pings = 0
        stub.hooks["ping"] = self._ping

    def _ping(self, conn: object) -> None:
        self.pings += 1


# What it costs


def test_a_look_is_no_round_trip(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool(max_size=1, validate_after=0)
    pid = talk(pool)
    conn = pool.getconn()
    conn.autocommit = True
    one(conn, "SELECT 'the last word'")
    pool.putconn(conn)
    for _ in range(3):
        with pool.connection() as conn:
            assert conn.info.backend_pid == pid
    assert last_query(postgres, pid) == "SELECT 'the last word'"


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        ({"validate_after": 0}, 5),
        ({"validate_after": 1000}, 0),
        ({"validate_after": 0, "validate": "off"}, 0),
        ({"validate_after": 1000, "validate": "ping"}, 5),
    ],
)
def test_a_look_is_taken_after_validate_after_only(
    options: dict[str, Any], looks: int, pg_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pg_pool(max_size=1, **options)
    pool.putconn(pool.getconn())
    counted: list[object] = []
    look = inside.look
    inside.patch(monkeypatch, "look", lambda poll: counted.append(poll) or look(poll))
    for _ in range(5):
        pool.putconn(pool.getconn())
    assert len(counted) == looks


@pytest.mark.parametrize(
    ("options", "pings"),
    [
        ({"validate": "poll"}, 0),
        ({"validate": "poll", "ping_after": 0}, 5),
        ({"validate": "ping"}, 5),
        ({"validate": "ping", "validate_after": 1000}, 5),
        ({"validate": "poll", "ping_after": 0, "validate_after": 1000}, 0),
        ({"validate": "off", "ping_after": 0}, 0),
    ],
)
def test_a_ping_is_made_past_ping_after_or_each_time_if_wanted(
    options: dict[str, Any], pings: int, stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1, **{"validate_after": 0, **options})
    pool.putconn(pool.getconn())
    counted = Counted(stub)
    for _ in range(5):
        pool.putconn(pool.getconn())
    assert counted.pings == pings


def test_one_ping_is_good_for_ping_after(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=1, validate_after=0, ping_after=1000)
    with lent(pool, 1) as (conn,):
        inside.in_use(pool)[id(conn)].proved_at -= 1000
    del conn
    counted = Counted(stub)
    for _ in range(5):
        pool.putconn(pool.getconn())
    assert counted.pings == 1


@pytest.mark.parametrize(
    ("timeout", "least", "most"), [(0, 0.05, 0.05), (-1, 0.05, 0.05), (1, 0.05, 1), (None, 2, 2)]
)
def test_a_ping_may_take_what_is_left_of_the_timeout_and_a_twentieth_second_at_least(
    timeout: float | None,
    least: float,
    most: float,
    pg_pool: MakePool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = pg_pool(max_size=1, validate_after=0, ping_after=0)
    fill(pool, 1)
    given: list[float] = []

    class Watched(inside.TimeLimit):
        def __init__(self, driver: Any, conn: Any, seconds: float) -> None:
            given.append(seconds)
            super().__init__(driver, conn, PATIENCE)

    unseen_by_the_keeper(pool)
    inside.patch(monkeypatch, "TimeLimit", Watched)
    pool.putconn(pool.getconn(timeout))
    (seconds,) = given
    assert least <= seconds <= most


def test_a_ping_leaves_nothing_behind(pg_pool: MakePool, postgres: Postgres) -> None:
    for autocommit in (False, True):
        pool = pg_pool(
            max_size=1,
            validate="ping",
            configure=lambda c, a=autocommit: c.set_session(autocommit=a),
        )
        for _ in range(2):
            with pool.connection() as conn:
                assert conn.autocommit is autocommit
                assert conn.get_transaction_status() == 0


def test_off_means_off(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool(max_size=1, validate="off", validate_after=0, ping_after=0)
    terminate(postgres, *fill(pool, 1))
    conn = pool.getconn()
    with pytest.raises(psycopg2.OperationalError):
        one(conn, "SELECT 1")
    pool.putconn(conn)


# What it finds


def test_a_terminated_session_is_seen_by_the_look_and_costs_no_error(
    pg_pool: MakePool, postgres: Postgres, stub: StubDriver
) -> None:
    pool = pg_pool(max_size=1, validate_after=0, ping_after=1000)
    pid = talk(pool)
    terminate(postgres, pid)
    assert talk(pool) != pid
    stats = pool.get_stats()
    assert (stats["connections_lost"], stats["connections_closed"]) == (1, {"broken": 1})
    expect_full_capacity(pool)


def test_a_listener_that_was_notified_is_alive_and_keeps_its_session(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=1, validate_after=0, ping_after=1000)
    with pool.connection() as conn:
        pid = conn.info.backend_pid
        one(conn, "SELECT 1")
        conn.cursor().execute("LISTEN news")
    for turn in range(3):
        run_sql(postgres, f"NOTIFY news, '{turn}'")
        wait_until(lambda: select.select([conn.fileno()], [], [], 0)[0], message="it is readable")
        with pool.connection() as conn:
            assert conn.info.backend_pid == pid
            assert [notify.payload for notify in conn.notifies] == [str(turn)]
            conn.notifies.clear()
    assert pool.get_stats()["connections_lost"] == 0


def test_the_first_dead_one_found_has_all_idle_ones_looked_at(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=6, validate_after=0)
    fill(pool, 6)
    # The caller meets one dead one, is served by the next, and leaves the others to the keeper.
    pids = [conn.info.backend_pid for conn, _ in inside.idle(pool)]
    terminate(postgres, *pids[:4], pids[5])
    talk(pool)
    wait_until(
        lambda: pool.get_stats()["connections_lost"] == 5,
        PATIENCE,
        lambda: f"the keeper looked at the others: {pool.get_stats()}",
    )
    expect_full_capacity(pool)


def test_without_threads_the_caller_that_found_one_looks_at_all(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=6, validate_after=0, background=False)
    terminate(postgres, *fill(pool, 6))
    talk(pool)
    assert pool.get_stats()["connections_lost"] == 6


def test_the_keeper_alone_finds_dead_ones_that_were_told_of(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=4, validate="ping")
    with lent(pool, 4) as taken:
        for conn in taken:
            conn.alive = False
    del conn
    taken.clear()
    pool.check()
    assert pool.get_stats()["connections_lost"] == 4
    expect_full_capacity(pool)


OUTAGES = ["fast", "immediate", "kill9"]


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("how", ["tcp", "unix"])
@pytest.mark.parametrize("idle", [1, 6])
def test_a_restart_while_idle_costs_no_call_an_error(
    idle: int, how: str, outage: str, breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(unix=how == "unix"), max_size=6)
    before = fill(pool, idle)
    returned = time.monotonic()
    if outage == "kill9":
        breakable_postgres.kill9()
        breakable_postgres.start()
    else:
        breakable_postgres.restart(outage)
    wait_until(lambda: time.monotonic() - returned > 0.1)  # validate_after
    callers = [in_thread(lambda: [talk(pool) for _ in range(20)]) for _ in range(8)]
    after = {pid for caller in callers for pid in caller.result(PATIENCE)}
    stats = pool.get_stats()
    assert (stats["requests_errors"], stats["returns_bad"]) == (0, 0)
    assert stats["connections_closed"].get("broken") == idle
    assert after.isdisjoint(before)
    expect_full_capacity(pool)


@pytest.mark.parametrize("event", ["POLLHUP", "POLLERR", "POLLNVAL", "POLLRDHUP"])
def test_each_word_of_the_kernels_for_a_broken_socket_is_one(event: str) -> None:
    if not hasattr(select, event):
        pytest.skip("this platform has none")
    events = [(0, getattr(select, event) | select.POLLIN)]
    assert inside.look(lambda timeout: events) == inside.DEAD


def test_a_ping_of_a_server_that_is_frozen_is_bounded_by_ping_timeout(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(
        breakable_postgres.dsn(), max_size=2, validate="ping", ping_timeout=0.2, connect_timeout=2
    )
    fill(pool, 2)
    breakable_postgres.freeze()
    caller = in_thread(pool.getconn, 10 * PATIENCE)  # whose own deadline ends nothing here
    wait_until(
        lambda: pool.get_stats()["connections_closed"].get("broken", 0) >= 1,
        PATIENCE,
        "a ping is cut off while the server is frozen",
    )
    breakable_postgres.thaw()
    try:
        pool.putconn(caller.result(PATIENCE))
    except PoolDown:  # where all this took so long that connects have timed out, too
        pass
    expect_full_capacity(pool)


def test_a_ping_is_bounded_by_the_callers_deadline_too(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(
        breakable_postgres.dsn(), max_size=1, validate="ping", ping_timeout=1000, connect_timeout=2
    )
    fill(pool, 1)
    breakable_postgres.freeze()
    caller = in_thread(pool.getconn, 0.3)
    with pytest.raises(PoolTimeout):
        caller.result(PATIENCE)
    breakable_postgres.thaw()
    expect_full_capacity(pool)


def test_check_asks_the_server_on_every_idle_connection_now(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(), max_size=3, ping_timeout=0.2)
    alive = fill(pool, 3)
    pool.check()
    assert sorted(fill(pool, 3)) == sorted(alive)
    breakable_postgres.freeze()
    in_thread(pool.check).result(PATIENCE)
    assert pool.get_stats()["pool_available"] == 0
    breakable_postgres.thaw()
    expect_full_capacity(pool)


def test_no_look_says_alive_after_one_that_said_otherwise(postgres: Postgres) -> None:
    """The server's farewell arrives before the end of its stream: the trap of reading it."""
    executioner = psycopg2.connect(postgres.dsn())
    executioner.autocommit = True
    for _ in range(300):
        conn = psycopg2.connect(postgres.dsn())
        poll = inside.poller(conn.fileno())
        assert inside.look(poll) == inside.ALIVE
        ending = in_thread(
            one, executioner, "SELECT pg_terminate_backend(%s)", conn.info.backend_pid
        )
        until = time.monotonic() + PATIENCE
        seen = inside.ALIVE
        while seen != inside.DEAD:
            now = inside.look(poll)
            assert not (seen != inside.ALIVE and now == inside.ALIVE), "it rose from the dead"
            assert time.monotonic() < until
            seen = now
        ending.result(PATIENCE)
        conn.close()
    executioner.close()


def test_a_session_being_terminated_is_never_handed_out_once_a_look_told(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    """The same race through the pool: whoever gets it can talk, or was the first to see the end."""
    pool = pg_pool(max_size=1, validate_after=0, ping_after=1000)
    for _ in range(40):
        pid = talk(pool)
        unseen_by_the_keeper(pool)
        with lent(pool, 1) as (conn,):
            fd = conn.fileno()
        ending = in_thread(run_sql, postgres, "SELECT pg_terminate_backend(%s)", pid)
        wait_until(lambda fd=fd: select.select([fd], [], [], 0)[0], interval=0)
        assert talk(pool) != pid
        ending.result(PATIENCE)
        del conn
    assert pool.get_stats()["returns_bad"] == 0


@pytest.mark.parametrize("fault", ["closed", "reused"])
def test_a_descriptor_that_is_closed_is_dead(fault: str, postgres: Postgres) -> None:
    conn = psycopg2.connect(postgres.dsn())
    poll = inside.poller(conn.fileno())
    conn.close()
    assert inside.look(poll) == inside.DEAD


# check


def test_check_is_called_before_each_hand_out_and_of_new_ones_too(stub_pool: MakePool) -> None:
    checked: list[int] = []
    pool = stub_pool(max_size=1, validate_after=1000, check=lambda c: checked.append(c.number))
    for _ in range(3):
        pool.putconn(pool.getconn())
    assert checked == [1, 1, 1]
    with lent(pool, 1):
        waiter = in_thread(pool.getconn, PATIENCE)
        wait_until(lambda: pool.get_stats()["requests_waiting"], PATIENCE)
    pool.putconn(waiter.result(PATIENCE))
    assert checked == [1] * 5


def test_one_that_fails_the_check_is_replaced_and_the_next_one_tried(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    def check(conn: StubConnection) -> None:
        if conn.number <= 3:
            raise StubError("not this one")

    pool = stub_pool(max_size=3, check=check)
    conn = pool.getconn()
    assert conn.number == 4
    pool.putconn(conn)
    stats = pool.get_stats()
    assert stats["connections_closed"] == {"check_failed": 3}
    assert stats["connections_lost"] == 3
    expect_full_capacity(pool)


def test_a_check_that_always_fails_ends_in_a_timeout(stub_pool: MakePool) -> None:
    def check(conn: StubConnection) -> None:
        raise StubError("never")

    pool = stub_pool(max_size=2, check=check)
    with pytest.raises(PoolTimeout):
        in_thread(pool.getconn, 0.3).result(PATIENCE)
    settled(pool)


@pytest.mark.parametrize("background", [True, False])
def test_a_check_that_nothing_passes_is_tried_ever_less_often_and_is_blamed(
    background: bool, stub_pool: MakePool, stub: StubDriver
) -> None:
    tries: list[float] = []
    # When it was begun: its thread may have been kept waiting since.
    stub.hooks["connect"] = lambda _: tries.extend(
        attempt.since for attempt in inside.attempts(pool)
    )
    wrong = [True]

    def check(conn: StubConnection) -> None:
        if wrong:
            raise StubError("no such table")

    pool = stub_pool(max_size=3, max_connecting=1, check=check, background=background)
    callers = [in_thread(pool.getconn, 1.5) for _ in range(3)]
    for caller in callers:
        with pytest.raises(PoolTimeout, match=r"passes its check \(StubError\): see") as e:
            caller.result(PATIENCE)
        assert str(e.value.__cause__) == "no such table"
        assert "database" not in str(e.value)
    # The first three were not known to fail when they were made.
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(tries[3:]))
    assert len(tries) <= 3 + 15, "1.5 s of pauses of a tenth"
    assert inside.outage(pool).pause_for > 0.15, "they do not grow"
    wrong.clear()
    expect_full_capacity(pool)
    assert inside.outage(pool).failure is None


@pytest.mark.parametrize("background", [True, False])
def test_new_connections_that_answer_no_ping_are_no_storm_of_connects(
    background: bool, stub_pool: MakePool, stub: StubDriver
) -> None:
    """A pooler in front of a server that is away takes them all."""
    away = [True]

    def ping(conn: StubConnection) -> None:
        if away:
            raise StubError("no server behind it")

    stub.hooks["ping"] = ping
    pool = stub_pool(max_size=3, max_connecting=1, validate="ping", background=background)
    callers = [in_thread(pool.getconn, 1.5) for _ in range(3)]
    for caller in callers:
        with pytest.raises(PoolTimeout, match=r"answers a ping \(StubError\): see") as e:
            caller.result(PATIENCE)
        assert str(e.value.__cause__) == "no server behind it"
    assert len(stub.made) <= 3 + 15, "1.5 s of pauses of a tenth"
    assert inside.outage(pool).pause_for > 0.15, "they do not grow"
    away.clear()
    expect_full_capacity(pool)
    assert inside.outage(pool).failure is None


def test_a_used_connection_that_fails_its_check_puts_no_connect_off(
    stub_pool: MakePool, stub: StubDriver
) -> None:
    def check(conn: StubConnection) -> None:
        if not conn.alive:
            raise StubError("it is old")

    pool = stub_pool(max_size=1, check=check)
    with pool.connection() as conn:
        conn.alive = False
    del conn
    with pool.connection(PATIENCE):
        assert inside.outage(pool).failure is None


def test_what_a_check_leaves_behind_is_cleaned_up(pg_pool: MakePool) -> None:
    def check(conn: Any) -> None:
        conn.isolation_level = 3
        one(conn, "SELECT 1")

    pool = pg_pool(max_size=1, check=check)
    for _ in range(2):
        conn = pool.getconn()
        assert conn.get_transaction_status() == 0
        assert conn.isolation_level is None
        pool.putconn(conn)
    assert pool.get_stats()["connections_num"] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, SystemExit])
def test_an_interrupted_check_costs_no_slot(
    error: type[BaseException], stub_pool: MakePool, stub: StubDriver
) -> None:
    errors = [error()]

    def check(conn: StubConnection) -> None:
        if errors:
            raise errors.pop()

    pool = stub_pool(max_size=2, check=check)
    with pytest.raises(error):
        pool.getconn()
    expect_full_capacity(pool)
    assert stub.open_connections == 2


def test_an_interrupted_ping_costs_no_slot(stub_pool: MakePool, stub: StubDriver) -> None:
    pool = stub_pool(max_size=2, validate="ping")
    with lent(pool, 2):
        pass
    errors = [KeyboardInterrupt()]

    def interrupt(_: object) -> None:
        if errors:
            raise errors.pop()

    stub.hooks["ping"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        pool.getconn()
    expect_full_capacity(pool)


def test_looks_from_many_threads_do_not_collide(pg_pool: MakePool) -> None:
    """A poll object refuses to be used by two threads at once: its connection must be owned."""
    pool = pg_pool(max_size=3, validate_after=0)
    end = threading.Event()

    def sweep() -> None:
        while not end.is_set():
            inside.upkeep(pool, time.monotonic())
            pool.check()

    sweepers = [in_thread(sweep) for _ in range(2)]
    callers = [in_thread(lambda: [talk(pool) for _ in range(100)]) for _ in range(4)]
    for caller in callers:
        caller.result(PATIENCE)
    end.set()
    for sweeper in sweepers:
        sweeper.result(PATIENCE)
    assert pool.get_stats()["connections_closed"] == {}
    expect_full_capacity(pool)


def test_one_whose_life_is_over_is_not_lent_though_a_look_finds_nothing(
    stub_pool: MakePool,
) -> None:
    pool = stub_pool(max_size=1, validate_after=0)
    conn = pool.getconn()
    pool.putconn(conn)
    (entry,) = inside.entries(pool)
    entry.expires_at = time.monotonic()  # and no sweep has come by yet
    assert pool.getconn() is not conn
    assert conn.closed
