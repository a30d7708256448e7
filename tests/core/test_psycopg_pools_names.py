"""What people know from psycopg_pool: it works here, or one sentence says what there is instead."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.support.callers import MakePool, ask, expect_full_capacity
from tests.support.servers import Postgres
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda f: f.__name__)
def test_a_pool_cannot_be_copied_or_pickled_and_says_what_to_do(
    how: Any, stub_pool: MakePool
) -> None:
    """A copy would share locks and connections: closing it would break the original."""
    pool = stub_pool(name="shop", max_size=2)
    with pytest.raises(
        TypeError, match=r"^pool 'shop' cannot be copied or pickled: .*make a pool of the same"
    ):
        how(pool)
    expect_full_capacity(pool)


def test_a_new_size_alone_is_refused_where_it_could_mean_two_things(stub_pool: MakePool) -> None:
    """psycopg_pool's resize(n) is n and n; here it once left max_size alone."""
    pool = stub_pool(max_size=3)
    with pytest.raises(ValueError, match=r"^resize\(2\) .* resize\(2, 3\) .* resize\(2, 2\)"):
        pool.resize(2)
    assert (pool.min_size, pool.max_size) == (0, 3)
    pool.resize(3)
    assert (pool.min_size, pool.max_size) == (3, 3)
    pool.resize(5)
    assert (pool.min_size, pool.max_size) == (5, 5)


def test_connection_class_is_said_to_be_part_of_kwargs() -> None:
    with pytest.raises(TypeError, match=r"'connection_class': here it is part of kwargs"):
        ConnectionPool(driver=StubDriver(), connection_class=object)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'num_workers': here it is not needed"):
        ConnectionPool(driver=StubDriver(), num_workers=3)  # type: ignore[call-arg]


def test_check_connection_as_check_is_a_ping_at_each_hand_out(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=1, check=ConnectionPool.check_connection)
    first = ask(pool)
    end_session(postgres, first)
    wait_until(lambda: ended(postgres, first))
    assert ask(pool) != first


def test_check_connection_asks_one_connection(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool(max_size=1)
    with pool.connection() as conn:
        ConnectionPool.check_connection(conn)
        assert pool.driver.transaction_status(conn) == 0, "it has left a transaction open"
        conn.cursor().execute("CREATE TEMP TABLE kept ()")
        ConnectionPool.check_connection(conn)  # in a transaction, which it leaves alone
        assert one(conn, "SELECT count(*) FROM kept") == 0
    conn = pool.getconn()
    end_session(postgres, conn.info.backend_pid)
    with pytest.raises(pool.driver.OperationalError):
        ConnectionPool.check_connection(conn)
    pool.putconn(conn)


def test_check_connection_serves_sqlite_and_refuses_what_is_no_connection() -> None:
    with ConnectionPool("sqlite://", check=ConnectionPool.check_connection) as pool:
        with pool.connection() as conn:
            pool.check_connection(conn)
    with pytest.raises(TypeError, match="of type int: check_connection takes a connection of"):
        ConnectionPool.check_connection(5)


def test_the_class_takes_the_type_of_its_connections_in_brackets(stub: StubDriver) -> None:
    """For annotations, and in calls: ConnectionPool[psycopg.Connection](...)."""
    pool = ConnectionPool[threading.Thread](driver=stub, name="typed")
    try:
        assert type(pool) is ConnectionPool
        assert pool.name == "typed"
    finally:
        pool.close()


def end_session(postgres: Postgres, pid: int) -> None:
    with ConnectionPool(postgres.dsn()) as other, other.connection() as conn:
        one(conn, f"SELECT pg_terminate_backend({pid})")


def ended(postgres: Postgres, pid: int) -> bool:
    with ConnectionPool(postgres.dsn()) as other, other.connection() as conn:
        return not one(conn, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")
