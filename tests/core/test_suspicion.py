"""Where one connection is dead, every other one is asked before it is lent: one error, not six."""

from __future__ import annotations

import math
import select
import time
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectionPool
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    unseen_by_the_keeper,
)
from tests.support.servers import Postgres
from tests.support.sessions import one, run_sql, terminate
from tests.support.stub_driver import StubConnection, StubDriver, StubError
from tests.support.waiting import wait_until
from tests.support.wired_driver import WiredDriver

LONG = 1000.0  # validate_after: nothing is looked at by itself


def pids(pool: ConnectionPool, count: int) -> list[int]:
    """Have so many idle connections; return their sessions."""
    with lent(pool, count) as taken:
        return [conn.info.backend_pid for conn in taken]


def errors_of_raw_callers(pool: ConnectionPool, calls: int, *, report: bool) -> int:
    """Take, ask and return by hand; count the questions that failed."""
    errors = 0
    for _ in range(calls):
        conn = pool.getconn(PATIENCE)
        try:
            one(conn, "SELECT 1")
        except psycopg2.Error as error:
            errors += 1
            if report:
                errors += not pool.report(conn, error)  # one too many, if it is not believed
        finally:
            pool.putconn(conn)
    return errors


def break_it(server: PostgresServer, outage: str) -> None:
    if outage == "kill9":
        server.kill9()
        server.start()
    else:
        server.restart(outage)


@pytest.mark.outage
@pytest.mark.parametrize("outage", ["fast", "immediate", "kill9"])
def test_the_first_dead_one_that_comes_back_costs_the_only_error(
    outage: str, breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    pool = new_pool(breakable_postgres.dsn(), max_size=6, validate_after=LONG)
    pids(pool, 6)
    unseen_by_the_keeper(pool)
    break_it(breakable_postgres, outage)
    assert errors_of_raw_callers(pool, 20, report=False) == 1
    expect_full_capacity(pool)


@pytest.mark.outage
@pytest.mark.parametrize("outage", ["fast", "immediate", "kill9"])
@pytest.mark.parametrize("how", ["tcp", "unix"])
@pytest.mark.parametrize("callers", ["report", "with"])
def test_one_that_is_reported_costs_the_only_error(
    callers: str, how: str, outage: str, breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    """Over a unix socket psycopg2 calls a dead connection open and idle: its error must tell."""
    pool = new_pool(breakable_postgres.dsn(unix=how == "unix"), max_size=6, validate_after=LONG)
    pids(pool, 6)
    unseen_by_the_keeper(pool)
    break_it(breakable_postgres, outage)
    errors = 0
    if callers == "report":
        errors = errors_of_raw_callers(pool, 20, report=True)
    else:
        for _ in range(20):
            try:
                with pool.connection(PATIENCE) as conn:
                    one(conn, "SELECT 1")
            except psycopg2.Error:
                errors += 1
    assert errors == 1
    wait_until(lambda: pool.get_stats()["connections_closed"].get("broken", 0) >= 5, PATIENCE)
    expect_full_capacity(pool)


@pytest.mark.parametrize("background", [True, False])
def test_what_is_lent_meanwhile_is_asked_too_when_it_has_come_back(
    background: bool, pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=3, validate_after=LONG, background=background)
    first, second, third = (pool.getconn() for _ in range(3))
    terminate(postgres, *(conn.info.backend_pid for conn in (first, second)))
    with pytest.raises(psycopg2.Error):
        one(first, "SELECT 1")
    pool.putconn(first)
    pool.putconn(third)
    pool.putconn(second)  # its borrower has not noticed, and it is the next to be lent
    del first, second, third
    assert errors_of_raw_callers(pool, 5, report=False) == 0
    expect_full_capacity(pool)


def test_a_dead_one_that_the_keeper_finds_makes_the_others_suspect(
    new_pool: MakePool, postgres: Postgres
) -> None:
    pool = new_pool(postgres.dsn(), max_size=3, validate_after=LONG)
    dead, *_ = pids(pool, 3)
    unseen_by_the_keeper(pool)
    terminate(postgres, dead)
    wait_until(lambda: any(inside.look(held[1].poll) == inside.DEAD for held in inside.idle(pool)))
    inside.sweep(pool, time.monotonic())
    assert len(inside.entries(pool)) == 2
    assert [entry.proved_at for entry in inside.entries(pool)] == [inside.NEVER, inside.NEVER], (
        "each is pinged first"
    )


def test_what_has_answered_is_trusted_again_and_a_new_one_from_the_beginning(
    pg_pool: MakePool, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pg_pool(max_size=3, validate_after=LONG)
    looks: list[object] = []
    look = inside.look
    inside.patch(monkeypatch, "look", lambda poll: looks.append(poll) or look(poll))
    held, dead = pool.getconn(), pool.getconn()
    terminate(postgres, dead.info.backend_pid)
    with pytest.raises(psycopg2.Error):
        one(dead, "SELECT 1")
    pool.putconn(dead)
    pool.putconn(pool.getconn())
    looks.clear()
    pool.putconn(pool.getconn())
    assert looks == [], "this one was opened after the suspicion"
    pool.putconn(held)
    for _ in range(2):  # no return gives the credit back, only an answer does
        looks.clear()
        conn = pool.getconn()
        assert conn is held
        assert len(looks) == 1
        inside.in_use(pool)[id(conn)].proved_at = -math.inf
        pool.putconn(conn)
    pool.putconn(pool.getconn())
    looks.clear()
    for _ in range(3):
        pool.putconn(pool.getconn())
    assert looks == []


@pytest.mark.parametrize("background", [True, False])
def test_a_dead_one_that_a_caller_finds_makes_the_others_suspect(
    background: bool, new_pool: MakePool
) -> None:
    """Nobody but the caller looks: the next one in its hand has been asked already."""
    driver = WiredDriver()
    pings: list[int] = []
    pool = new_pool(driver=driver, max_size=2, validate_after=0, background=background)
    with lent(pool, 2):
        pass
    unseen_by_the_keeper(pool)
    driver.hooks["ping"] = lambda conn: pings.append(conn.number)
    last = inside.idle(pool)[-1][0]  # the one that is lent next
    last.server_ends()
    number = last.number
    del last
    with pool.connection() as conn:
        assert conn.number != number
        assert pings[:1] == [conn.number], "it was lent unasked"


def test_each_one_is_pinged_once(stub_pool: MakePool, stub: StubDriver) -> None:
    """A look sees no silent link; only a ping does."""
    pool = stub_pool(max_size=4, validate_after=LONG, ping_after=LONG)
    with lent(pool, 4) as taken:
        silent = taken[1]
    conn = pool.getconn()
    assert conn is not silent
    assert not pool.report(conn, StubError("nothing of the kind"))
    silent.alive = conn.alive = False
    pings: list[int] = []

    def ping(conn: StubConnection) -> None:
        pings.append(conn.number)

    stub.hooks["ping"] = ping
    assert pool.report(conn, StubError("the link is down"))
    pool.putconn(conn)
    assert conn.closed, "it is over when it comes back"
    for _ in range(3):
        with lent(pool, 3) as taken:
            assert silent not in taken
    assert len(pings) == 3
    assert len(set(pings)) == 3, "one was asked twice"
    del taken, silent, conn
    assert pool.get_stats()["connections_closed"] == {"broken": 2}
    expect_full_capacity(pool)


def test_an_error_of_a_statement_makes_nobody_suspect(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=2, validate_after=LONG)
    with lent(pool, 2):
        pass
    for statement in ("SELECT 1/0", "nonsense", "SELECT pg_cancel_backend(pg_backend_pid())"):
        conn = pool.getconn()
        with pytest.raises(psycopg2.Error) as caught:
            one(conn, statement)
        assert pool.report(conn, caught.value) is False
        pool.putconn(conn)
    assert all(entry.good_until > time.monotonic() for entry in inside.entries(pool))
    assert pool.get_stats()["connections_closed"] == {}


class FromTheServer(StubError):
    """An error with a SQLSTATE, as psycopg 3 shows it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def test_a_server_that_has_become_read_only_is_reported_as_lost(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=2, validate_after=LONG)
    conn = pool.getconn()
    assert pool.report(conn, FromTheServer("25006"))
    pool.putconn(conn)
    assert conn.closed
    assert pool.report(object(), FromTheServer("25006")), "a connection that is nobody's"
    expect_full_capacity(pool)


@pytest.mark.parametrize("stranger", [None, object()], ids=["None", "an object"])
def test_a_report_of_what_is_no_connection_raises_nothing(
    stranger: object, pg_pool: MakePool
) -> None:
    pool = pg_pool(max_size=1)
    assert pool.report(stranger, FromTheServer("23505")) is False
    expect_full_capacity(pool)


def test_a_connection_its_borrower_has_broken_costs_the_others_no_more_than_a_ping(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=3, validate_after=LONG)
    before = pids(pool, 3)
    conn = pool.getconn()
    gone = conn.info.backend_pid
    conn.close()
    pool.putconn(conn)
    assert set(before) - {gone} <= set(pids(pool, 3))


def test_one_that_is_given_up_with_something_to_read_makes_nobody_suspect(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=2, validate_after=LONG)
    with lent(pool, 2):
        pass
    conn = pool.getconn()
    conn.autocommit = True
    one(conn, "LISTEN news; SELECT 1")
    run_sql(postgres, "NOTIFY news")
    wait_until(lambda: select.select([conn], [], [], 0)[0], PATIENCE, "it is notified")
    pool.putconn(conn, close=True)
    (other,) = inside.entries(pool)
    assert other.good_until > time.monotonic()


def test_off_is_off(pg_pool: MakePool, postgres: Postgres) -> None:
    """validate="off" is a promise to ask nothing, after a death as well."""
    pool = pg_pool(max_size=2, validate="off")
    terminate(postgres, *pids(pool, 2))
    assert errors_of_raw_callers(pool, 2, report=False) == 2


def test_where_nothing_is_asked_nothing_stays_suspect(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1, validate="off", validate_after=LONG)
    pool.putconn(pool.getconn())
    inside.mark_all_untrusted(pool)
    pool.putconn(pool.getconn())
    assert all(entry.good_until > time.monotonic() for entry in inside.entries(pool))


@pytest.mark.outage
def test_six_callers_at_once_after_a_restart_get_one_error_each_at_most(
    breakable_postgres: PostgresServer, new_pool: MakePool
) -> None:
    """Those that hold one at the time err; nobody who comes later does."""
    pool = new_pool(breakable_postgres.dsn(unix=True), max_size=6, validate_after=LONG)
    held = [pool.getconn() for _ in range(6)]
    breakable_postgres.restart("immediate")

    def fail(conn: Any) -> int:
        with pytest.raises(psycopg2.Error) as caught:
            one(conn, "SELECT 1")
        pool.report(conn, caught.value)
        pool.putconn(conn)
        return errors_of_raw_callers(pool, 10, report=True)

    callers = [in_thread(fail, conn) for conn in held]
    held.clear()
    assert [caller.result(PATIENCE) for caller in callers] == [0] * 6
    run_sql(breakable_postgres, "SELECT 1")
    expect_full_capacity(pool)
