"""A server that becomes read-only, a host that is dead, and a standby that takes over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectionPool, PoolDown
from testproject.postgres import PostgresServer
from tests.support.black_hole import BlackHole
from tests.support.callers import PATIENCE, MakePool, lent
from tests.support.servers import Postgres
from tests.support.sessions import one
from tests.support.standby import make_pair, promote, wait_caught_up
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

WRITE = "INSERT INTO written VALUES (1)"


def write(pool: ConnectionPool) -> None:
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute(WRITE)


def writes(pool: ConnectionPool) -> bool:
    try:
        write(pool)
    except psycopg2.OperationalError:
        return False
    return True


@pytest.fixture
def server(breakable_postgres: PostgresServer) -> Iterator[PostgresServer]:
    breakable_postgres.sql("CREATE TABLE IF NOT EXISTS written (n int)")
    yield breakable_postgres
    set_read_only(breakable_postgres, False)


def set_read_only(server: PostgresServer, on: bool) -> None:
    """Let the server take no writes, as a demoted one does; return when its sessions know."""
    server.sql(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
    server.reload()
    state = "on" if on else "off"
    wait_until(lambda: server.sql("SHOW default_transaction_read_only") == state, PATIENCE)


# One server


def test_a_driver_that_does_not_say_whether_it_may_write_serves_a_primarys_pool(
    new_pool: MakePool, stub: StubDriver
) -> None:
    assert stub.read_only(None) is None
    pool = new_pool(driver=stub, role="primary", max_size=1)
    with pool.connection(PATIENCE) as conn:
        assert conn.number == 1


def test_a_write_in_a_transaction_of_the_borrowers_own_that_is_read_only_costs_no_connection(
    pg_pool: MakePool,
) -> None:
    pool = pg_pool(max_size=1)
    with pool.connection() as conn:
        conn.autocommit = True
        pid = conn.info.backend_pid
    conn = pool.getconn()
    conn.readonly = True
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction) as caught:
        one(conn, "CREATE TABLE nothing ()")
    assert not pool.report(conn, caught.value)
    pool.putconn(conn)
    with pool.connection() as conn:
        assert conn.info.backend_pid == pid
        assert conn.readonly is None


@pytest.mark.outage
def test_a_write_on_a_pool_of_replicas_costs_no_connection(
    new_pool: MakePool, postgres: Postgres
) -> None:
    """It is refused as it must be, on this connection and on any other."""
    pool = new_pool(
        postgres.dsn(options="-c default_transaction_read_only=on"), role="replica", max_size=1
    )
    for _ in range(3):
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), pool.connection() as conn:
            one(conn, "CREATE TABLE refused ()")
    assert pool.get_stats()["connections_num"] == 1


def test_one_write_fails_when_the_server_becomes_read_only_then_callers_hear_that_it_is_down(
    new_pool: MakePool, server: PostgresServer
) -> None:
    pool = new_pool(server.dsn(), max_size=4, role="primary", down_wait=0.1)
    with lent(pool, 4):
        pass
    write(pool)
    set_read_only(server, True)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        write(pool)
    for _ in range(4):
        with pytest.raises(PoolDown) as caught:
            write(pool)
        assert "role='primary'" in str(caught.value.__cause__)
    set_read_only(server, False)
    wait_until(lambda: writes(pool), PATIENCE, "it takes writes again")


@pytest.mark.outage
def test_a_ping_finds_out_before_any_caller_does(
    new_pool: MakePool, server: PostgresServer
) -> None:
    pool = new_pool(server.dsn(), max_size=2, role="primary", ping_after=0, validate_after=0)
    with lent(pool, 2) as taken:
        pids = {conn.info.backend_pid for conn in taken}
    set_read_only(server, True)
    with pytest.raises(PoolDown):
        pool.getconn(timeout=1.0)
    set_read_only(server, False)
    wait_until(lambda: writes(pool), PATIENCE, "it takes writes again")
    with pool.connection() as conn:
        assert conn.info.backend_pid not in pids


@pytest.mark.outage
@pytest.mark.parametrize("role", [None, "replica"])
def test_whoever_is_not_a_primary_may_read_on(
    role: str | None, new_pool: MakePool, server: PostgresServer
) -> None:
    set_read_only(server, True)
    pool = new_pool(server.dsn(), max_size=1, role=role, validate="ping")
    pids = set()
    for _ in range(3):
        with pool.connection() as conn:
            assert one(conn, "SELECT 42") == 42
            pids.add(conn.info.backend_pid)
    assert len(pids) == 1


def test_an_unknown_role_is_refused(new_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="role='leader' is not possible: it takes"):
        new_pool("", role="leader")


# Several hosts


def test_a_dead_first_host_costs_its_timeout_once(pg_pool: MakePool, postgres: Postgres) -> None:
    with BlackHole() as hole:
        real = psycopg2.extensions.parse_dsn(postgres.dsn())
        dead = hole.url.rpartition(":")[2].partition("/")[0]
        two: dict[str, Any] = {
            "host": f"127.0.0.1,{real['host']}",
            "port": f"{dead},{real['port']}",
            "connect_timeout": 2,
        }
        pool = pg_pool(max_size=1, kwargs=two, timeout=PATIENCE)
        for _ in range(4):
            with pool.connection() as conn:
                assert one(conn, "SELECT 42") == 42
            pool.drain()
        assert pool.get_stats()["connections_num"] >= 4
        assert len(hole.accepted) == 1


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with ExitStack() as stack:
        primary, standby = make_pair({})
        stack.callback(primary.destroy)
        stack.callback(standby.destroy)
        primary.sql("CREATE TABLE written (n int)")
        yield primary, standby


@pytest.mark.outage
def test_a_standby_that_is_promoted_is_written_to(
    new_pool: MakePool, pair: tuple[PostgresServer, PostgresServer]
) -> None:
    primary, standby = pair
    # The standby first, and no target_session_attrs: the role says what is wanted.
    hosts = {"host": "127.0.0.1,127.0.0.1", "port": f"{standby.port},{primary.port}"}
    dsn = primary.dsn(**hosts)
    pool = new_pool(dsn, max_size=2, role="primary", down_wait=0.2)
    write(pool)
    wait_caught_up(primary)
    primary.kill9()
    assert not writes(pool)  # the connection that died
    with pytest.raises(PoolDown):
        write(pool)
    promote(standby)
    wait_until(lambda: writes(pool), PATIENCE, "the promoted one is written to")
    assert standby.sql("SELECT count(*) FROM written") == "2"


@pytest.mark.outage
def test_a_standby_is_no_primary(
    new_pool: MakePool, pair: tuple[PostgresServer, PostgresServer]
) -> None:
    _, standby = pair
    pool = new_pool(standby.dsn(), role="primary", down_wait=0.1)
    with pytest.raises(PoolDown) as caught:
        pool.getconn()
    assert "role='primary'" in str(caught.value.__cause__)
    reader = new_pool(standby.dsn(), role="replica", max_size=1)
    with reader.connection() as conn:
        assert one(conn, "SELECT pg_is_in_recovery()") is True
