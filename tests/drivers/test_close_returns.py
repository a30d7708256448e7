"""close_returns=True: close() returns what getconn() has lent, for code that knows no pool."""

from __future__ import annotations

import gc

import pytest

from dbpool import Misconfigured, TransactionAborted
from tests.drivers.conftest import run
from tests.support.callers import MakePool, expect_full_capacity
from tests.support.stub_driver import StubConnection, StubDriver


def test_close_gives_the_connection_back_rolled_back(make: MakePool) -> None:
    pool = make(max_size=1, close_returns=True)
    conn = pool.getconn()
    run(conn, "INSERT INTO driver_test VALUES (1)")
    conn.close()
    again = pool.getconn(timeout=0)
    assert again is conn
    assert run(again, "SELECT count(*) FROM driver_test") == [(0,)]
    again.close()
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["pool_available"]) == (1, 1)


def test_without_the_option_close_closes(make: MakePool) -> None:
    pool = make(max_size=1)
    conn = pool.getconn()
    conn.close()
    pool.putconn(conn)
    other = pool.getconn()
    assert other is not conn
    pool.putconn(other)


def test_putconn_drain_and_close_of_the_pool_do_as_ever(make: MakePool) -> None:
    pool = make(max_size=2, close_returns=True)
    conn = pool.getconn()
    pool.putconn(conn)
    first = pool.getconn()
    assert first is conn
    pool.putconn(first, close=True)
    second = pool.getconn()
    assert second is not first
    pool.drain()
    second.close()
    assert pool.getconn() is not second
    pool.close()


def test_a_connection_that_is_dropped_frees_its_slot(make: MakePool) -> None:
    pool = make(max_size=1, close_returns=True)
    conn = pool.getconn()
    del conn
    gc.collect()
    expect_full_capacity(pool)


def test_in_a_block_close_closes_and_the_block_returns(make: MakePool) -> None:
    """Else the block would commit on a connection that is somebody else's by then."""
    pool = make(max_size=1, close_returns=True)

    def closed_in_the_middle() -> None:
        with pool.connection() as conn:
            run(conn, "INSERT INTO driver_test VALUES (1)")
            conn.close()

    with pytest.raises(TransactionAborted):
        closed_in_the_middle()
    with pool.connection() as conn:
        assert run(conn, "SELECT count(*) FROM driver_test") == [(0,)]
    conn = pool.getconn()
    conn.close()
    assert pool.getconn(timeout=0) is conn
    conn.close()


def test_a_reset_that_opens_the_session_anew_is_no_return(make: MakePool) -> None:
    pool = make(max_size=1, close_returns=True, reset="discard")
    for _ in range(2):
        conn = pool.getconn()
        run(conn, "SELECT 1")
        conn.close()
    assert pool.get_stats()["returns_bad"] == 0


def test_connections_whose_close_cannot_be_replaced_are_told(new_pool: MakePool) -> None:
    class Fixed(StubConnection):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            if name == "close":
                raise AttributeError(name)
            super().__setattr__(name, value)

    class FixedDriver(StubDriver):
        def connect(self, *args: object, **kwargs: object) -> StubConnection:
            return Fixed(1)

    pool = new_pool(driver=FixedDriver(), close_returns=True)
    with pytest.raises(Misconfigured, match="close_returns=True is not possible"):
        pool.getconn(60)
