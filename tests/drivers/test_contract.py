"""What every driver promises the pool, so that the pool can promise it to all."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dbpool import CommitUnknown, ConnectFailed, ConnectionPool, PoolTimeout
from dbpool.drivers.base import IDLE, INTRANS, REASONS, UNKNOWN, Driver
from dbpool.health import HealthCheck
from tests.drivers.conftest import Backend, run
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
    wait_for_waiters,
)

COUNT = "SELECT count(*) FROM driver_test"
INSERT = "INSERT INTO driver_test VALUES (1)"


def rows_of(pool: ConnectionPool) -> int:
    with pool.connection() as conn:
        return int(run(conn, COUNT)[0][0])


def broken_off(pool: ConnectionPool, work: Callable[[Any], object]) -> None:
    """Leave a block by an exception, after `work`."""
    try:
        with pool.connection() as conn:
            work(conn)
            raise KeyError
    except KeyError:
        pass


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "dbpool")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("dbpool")]


# Acquire, return, transactions


def test_connections_are_lent_and_reused(make: MakePool) -> None:
    pool = make(max_size=3)
    expect_full_capacity(pool)
    conn = pool.getconn()
    assert run(conn, "SELECT 1") == [(1,)]
    pool.putconn(conn)
    assert pool.getconn() is conn
    pool.putconn(conn)
    assert pool.get_stats()["returns_bad"] == 0


def test_all_connections_of_a_pool_see_one_database(make: MakePool) -> None:
    pool = make(max_size=3)
    with pool.connection() as conn:
        run(conn, INSERT)
    with lent(pool, 3) as taken:
        assert [run(conn, COUNT) for conn in taken] == [[(1,)]] * 3


def test_a_block_commits_and_rolls_back_on_an_exception(make: MakePool) -> None:
    pool = make(max_size=1)
    with pool.connection() as conn:
        run(conn, INSERT)
    broken_off(pool, lambda conn: run(conn, INSERT))
    assert rows_of(pool) == 1
    assert pool.get_stats()["connections_num"] == 1


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_raw_begin_commits_and_rolls_back_too(
    autocommit: bool, make: MakePool, backend: Backend
) -> None:
    pool = make(max_size=1)

    def begin(conn: Any) -> None:
        if autocommit:
            backend.autocommit(conn)
            backend.begin(conn)
        run(conn, INSERT)

    with pool.connection() as conn:
        begin(conn)
    assert rows_of(pool) == 1
    broken_off(pool, begin)
    assert rows_of(pool) == 1
    assert pool.get_stats()["connections_num"] == 1


@pytest.mark.parametrize("autocommit", [False, True])
def test_an_open_transaction_is_rolled_back_at_the_return_and_the_session_kept(
    autocommit: bool,
    make: MakePool,
    backend: Backend,
    warnings_of: Callable[[], list[str]],
) -> None:
    pool = make(max_size=1, name="shop")
    conn = pool.getconn()
    if autocommit:
        backend.autocommit(conn)
        backend.begin(conn)
    run(conn, INSERT)
    assert pool.driver.transaction_status(conn) == INTRANS
    pool.putconn(conn)
    with pool.connection() as other:
        assert other is conn
        assert pool.driver.transaction_status(other) == IDLE
    assert rows_of(pool) == 0
    assert warnings_of() == [
        "pool 'shop': a connection came back in an open transaction: rolled back"
    ]
    assert pool.get_stats()["returns_bad"] == 0
    expect_full_capacity(pool)


def test_a_failed_statement_does_not_cost_the_connection(make: MakePool) -> None:
    pool = make(max_size=1)
    with pytest.raises(pool.driver.OperationalError.__mro__[1]), pool.connection() as conn:
        run(conn, "SELECT * FROM nowhere")
    with pool.connection() as other:
        assert other is conn
    assert rows_of(pool) == 0


def test_waiters_get_what_comes_back_in_their_order(make: MakePool) -> None:
    pool = make(max_size=1)
    order: list[int] = []

    def use(number: int) -> None:
        with pool.connection(timeout=PATIENCE) as conn:
            order.append(number)
            run(conn, "SELECT 1")

    conn = pool.getconn()
    waiters = []
    for number in range(3):
        waiters.append(in_thread(use, number))
        wait_for_waiters(pool, number + 1)
    pool.putconn(conn)
    for waiter in waiters:
        waiter.result(PATIENCE)
    assert order == [0, 1, 2]


def test_a_connection_serves_one_thread_after_another(make: MakePool) -> None:
    pool = make(max_size=1)
    for _ in range(3):
        assert in_thread(rows_of, pool).result(PATIENCE) == 0
    assert pool.get_stats()["connections_num"] == 1


# What comes back changed


def test_what_a_borrower_changed_is_put_back(make: MakePool, backend: Backend) -> None:
    pool = make(max_size=1)
    with pool.connection() as conn:
        before = {name: getattr(conn, name) for name in backend.changes}
    assert before.keys() == backend.changes.keys() != set()
    for name, value in backend.changes.items():
        assert before[name] != value, "the change would not show"
        conn = pool.getconn()
        setattr(conn, name, value)
        pool.putconn(conn)
        with pool.connection() as other:
            assert other is conn, f"{name} cost the connection"
            assert {name: getattr(conn, name) for name in backend.changes} == before
    conn = pool.getconn()
    for name, value in backend.changes.items():
        setattr(conn, name, value)
    run(conn, COUNT)
    pool.putconn(conn)
    with pool.connection() as other:
        assert other is conn
        assert {name: getattr(conn, name) for name in backend.changes} == before
    expect_full_capacity(pool)


def test_what_configure_set_is_what_is_put_back(make: MakePool, backend: Backend) -> None:
    wanted = {k: v for k, v in backend.changes.items() if k not in ("autocommit", "deferrable")}

    def configure(conn: Any) -> None:
        for name, value in wanted.items():
            setattr(conn, name, value)

    pool = make(max_size=1, configure=configure)
    with pool.connection() as conn:
        plain = {name: getattr(conn, name) for name in wanted}
        assert plain == wanted
    for name in wanted:
        conn = pool.getconn()
        if name != "server_cursor_factory" and name != "cursor_factory":
            setattr(conn, name, {"prepared_max": 9, "text_factory": str}.get(name))
        pool.putconn(conn)
        with pool.connection() as other:
            assert other is conn
            assert {name: getattr(conn, name) for name in wanted} == wanted


def test_settled_tells_what_is_idle_and_unchanged(make: MakePool, backend: Backend) -> None:
    pool = make(max_size=1)
    driver = pool.driver
    with pool.connection() as conn:
        attributes = driver.attributes(conn)
        assert driver.settled(conn, attributes)
        run(conn, INSERT)
        assert not driver.settled(conn, attributes)
        driver.rollback(conn)
        assert driver.settled(conn, attributes)
        for name, value in backend.changes.items():
            old = getattr(conn, name)
            setattr(conn, name, value)
            assert not driver.settled(conn, attributes), name
            setattr(conn, name, old)
            assert driver.settled(conn, attributes), name


def test_a_closed_connection_is_replaced(make: MakePool) -> None:
    pool = make(max_size=1)
    conn = pool.getconn()
    attributes = pool.driver.attributes(conn)
    conn.close()
    assert pool.driver.transaction_status(conn) == UNKNOWN
    assert not pool.driver.settled(conn, attributes)
    assert pool.driver.fileno(conn) is None
    assert pool.driver.is_disconnect(conn, Exception())
    pool.driver.close(conn)
    pool.putconn(conn)
    with pool.connection() as other:
        assert other is not conn
    assert pool.get_stats()["returns_bad"] == 1
    expect_full_capacity(pool)


def test_a_connection_that_is_dropped_gives_its_slot_back(
    make: MakePool, warnings_of: Callable[[], list[str]]
) -> None:
    pool = make(max_size=1, name="shop")
    conn = pool.getconn()
    pool.driver.close(conn)  # or the driver may warn, too
    del conn
    gc.collect()
    expect_full_capacity(pool)
    assert any("was dropped" in text for text in warnings_of())


# reset


def test_reset_discard_forgets_the_session_and_keeps_the_connection(
    make: MakePool, backend: Backend
) -> None:
    pool = make(max_size=1, reset="discard")
    for _ in range(3):
        conn = pool.getconn()
        backend.autocommit(conn)
        run(conn, "CREATE TEMP TABLE mine (i int)")
        pool.putconn(conn)
        with pool.connection() as other:
            assert other is conn
            with pytest.raises(Exception, match="mine"):
                run(other, "SELECT * FROM mine")
            other.rollback()
    assert pool.get_stats()["returns_bad"] == 0


def test_a_reset_of_ones_own_runs_after_each_return(make: MakePool) -> None:
    calls: list[Any] = []
    pool = make(max_size=1)
    inside.put(pool, reset=calls.append)
    for _ in range(3):
        with pool.connection() as conn:
            run(conn, INSERT)
    assert calls == [conn] * 3


def test_a_reset_that_leaves_a_transaction_open_costs_the_connection(make: MakePool) -> None:
    pool = make(max_size=1)
    with pool.connection() as conn:
        pass
    inside.put(pool, reset=lambda conn: run(conn, INSERT))
    with pool.connection() as again:
        assert again is conn
    inside.put(pool, reset=None)
    with pool.connection() as other:
        assert other is not conn


# What the driver is asked by the pool itself


@pytest.mark.parametrize("autocommit", [False, True])
def test_ping_and_probe_leave_nothing_behind(
    autocommit: bool, make: MakePool, backend: Backend
) -> None:
    pool = make(max_size=1)
    with pool.connection() as conn:
        if autocommit:
            backend.autocommit(conn)
        attributes = pool.driver.attributes(conn)
        for _ in range(10):  # a driver may prepare what it sees often
            pool.driver.ping(conn)
            assert pool.driver.probe(conn) is True
            assert pool.driver.transaction_status(conn) == IDLE
            assert pool.driver.settled(conn, attributes)


def test_ping_raises_on_a_closed_connection(make: MakePool) -> None:
    pool = make(max_size=1)
    conn = pool.getconn()
    conn.close()
    with pytest.raises(Exception, match="closed"):
        pool.driver.ping(conn)
    pool.putconn(conn)


def test_validate_ping_and_check_serve(make: MakePool) -> None:
    checked: list[Any] = []
    pool = make(
        max_size=1, validate="ping", check=lambda conn: checked.append(run(conn, "SELECT 1"))
    )
    for _ in range(3):
        assert rows_of(pool) == 0
    assert len(checked) >= 3
    assert pool.get_stats()["connections_num"] == 1
    pool.check()
    expect_full_capacity(pool)


def test_drain_and_resize_serve(make: MakePool) -> None:
    pool = make(min_size=2, max_size=2)
    with lent(pool, 2) as taken:
        before = {id(conn) for conn in taken}
    pool.drain()
    with lent(pool, 2) as taken:
        assert rows_of_each(taken) == [0, 0]
    assert pool.get_stats()["connections_closed"] == {"drained": 2}, before
    pool.resize(0, 1)
    expect_full_capacity(pool)


def rows_of_each(conns: list[Any]) -> list[int]:
    found = [run(conn, COUNT)[0][0] for conn in conns]
    for conn in conns:
        conn.rollback()
    return found


def test_the_health_check_is_answered(make: MakePool) -> None:
    pool = make(max_size=1)
    check = HealthCheck(lambda: {"default": pool}, deadline=PATIENCE)
    assert check.respond("GET", "/healthz/db", "", {}, "")[0] == 200  # on a spare connection
    with pool.connection():
        pass
    assert check.respond("GET", "/healthz/db", "", {}, "")[0] == 200


# Connecting, and errors


def test_kwargs_reach_the_driver(make: MakePool, backend: Backend) -> None:
    for kwargs in (backend.kwargs, lambda: backend.kwargs):
        with make(max_size=1, kwargs=kwargs).connection() as conn:
            assert backend.shown(conn)


def test_a_conninfo_may_be_a_callable(make: MakePool, backend: Backend) -> None:
    driver = backend.driver() or "sqlite3"
    with ConnectionPool(lambda: backend.conninfo, driver=driver) as pool, pool.connection() as conn:
        assert run(conn, "SELECT 1") == [(1,)]


def test_a_database_that_is_missing_is_told_at_once(make: MakePool, backend: Backend) -> None:
    pool = make(backend.missing)
    with pytest.raises(ConnectFailed) as caught:
        pool.getconn(timeout=PATIENCE)
    assert caught.value.reason == "unknown_database"
    assert isinstance(caught.value, pool.driver.OperationalError)
    assert isinstance(caught.value.__cause__, pool.driver.OperationalError)


def test_errors_are_the_drivers_too_and_pickle(make: MakePool) -> None:
    pool = make(max_size=1)
    with pool.connection(), pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0)
    assert isinstance(caught.value, pool.driver.OperationalError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value)
    assert (str(again), again.waited, again.size) == (
        str(caught.value),
        caught.value.waited,
        caught.value.size,
    )
    assert str(inside.error(pool, CommitUnknown)("it is a sentence")) == "it is a sentence"


def test_an_unknown_error_has_a_word_and_is_no_disconnect(make: MakePool) -> None:
    pool = make(max_size=1)
    with pool.connection() as conn:
        for error in (Exception(), KeyError("x"), pool.driver.OperationalError("strange")):
            assert pool.driver.reason(error) in REASONS
            assert not pool.driver.is_disconnect(conn, error)


# The pool's end, and the process's


def test_a_closed_pool_leaves_no_connection(make: MakePool) -> None:
    pool = make(max_size=2)
    with lent(pool, 2) as taken:
        pass
    pool.close()
    for conn in taken:
        with pytest.raises(Exception, match="closed"):
            run(conn, "SELECT 1")


def test_a_forked_child_has_connections_of_its_own_and_leaves_the_parents_alone(
    make: MakePool, backend: Backend
) -> None:
    pool = make(max_size=2)
    with pool.connection() as conn:
        run(conn, INSERT)
    lent_one = pool.getconn()
    run(lent_one, INSERT)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            mine = pool.getconn(timeout=PATIENCE)
            assert mine is not lent_one
            assert mine is not conn
            assert run(mine, "SELECT 42") == [(42,)]
            if backend.name != "sqlite3 memory":  # the child's is empty, and its own
                assert run(mine, COUNT) == [(1,)]
            pool.putconn(mine)
            pool.putconn(lent_one)  # the parent's: nothing happens
            del lent_one, conn
            gc.collect()
            pool.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    lent_one.commit()
    pool.putconn(lent_one)
    assert rows_of(pool) == 2
    assert pool.get_stats()["returns_bad"] == 0
    expect_full_capacity(pool)


def test_many_threads_share_few_connections(make: MakePool, backend: Backend) -> None:
    pool = make(max_size=3, timeout=PATIENCE)

    def work(number: int) -> None:
        for turn in range(20):
            token = number * 1000 + turn
            with pool.connection() as conn:
                assert run(conn, f"SELECT {token}") == [(token,)]
                if turn % 5 == 0:
                    run(conn, INSERT)

    for worker in [in_thread(work, number) for number in range(8)]:
        worker.result(PATIENCE)
    assert rows_of(pool) == 8 * 4
    assert pool.get_stats()["returns_bad"] == 0
    expect_full_capacity(pool)


def test_the_protocol_is_whole(make: MakePool) -> None:
    driver = make().driver
    wanted = {name for name in vars(Driver) if not name.startswith("_")}
    assert wanted <= set(dir(driver))
    assert threading.active_count() < 20


# Deadlines


def test_a_statement_that_takes_too_long_is_ended_and_its_connection_replaced(
    make: MakePool, backend: Backend
) -> None:
    pool = make(max_size=1, max_use=0.3)
    if backend.name == "own":
        pytest.skip("this driver has nothing to end a statement with")
    if backend.is_postgres:
        endless = "SELECT pg_sleep(1000)"
    else:  # recursion that would take longer than any test
        endless = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        )
    with pytest.raises(pool.driver.OperationalError), pool.connection() as conn:
        run(conn, endless)
    assert pool.get_stats()["connections_closed"] == {"max_use": 1}
    assert rows_of(pool) == 0
    expect_full_capacity(pool)
