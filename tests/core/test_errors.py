"""The pool's errors: one tree, each the driver's OperationalError, and able to travel."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import dbpool
from dbpool import (
    CommitUnknown,
    ConnectFailed,
    ConnectionPool,
    PoolClosed,
    PoolError,
    PoolTimeout,
    TooManyRequests,
    TransactionAborted,
)
from dbpool.errors import for_driver
from tests.support.callers import PATIENCE, MakePool, in_thread, lent, wait_for_waiters
from tests.support.servers import Postgres
from tests.support.stub_driver import StubError

ROOT = Path(__file__).parents[2]
ALL = [
    PoolTimeout,
    TooManyRequests,
    PoolClosed,
    ConnectFailed,
    TransactionAborted,
    CommitUnknown,
]


def error_of(call: Callable[[], object]) -> PoolError:
    with pytest.raises(PoolError) as caught:
        call()
    return caught.value


def timed_out(new_pool: MakePool, server: Postgres) -> PoolError:
    pool = new_pool(server.dsn(), max_size=1, name="shop")
    with lent(pool, 1):
        return error_of(lambda: pool.getconn(timeout=0.01))


def too_many(new_pool: MakePool, server: Postgres) -> PoolError:
    pool = new_pool(server.dsn(), max_size=1, max_waiting=1, name="shop")
    with lent(pool, 1):
        waiting = in_thread(pool.getconn, PATIENCE)
        wait_for_waiters(pool, 1)
        error = error_of(pool.getconn)
    pool.putconn(waiting.result(PATIENCE))
    return error


def closed(new_pool: MakePool, server: Postgres) -> PoolError:
    pool = new_pool(server.dsn(), name="shop")
    pool.close()
    return error_of(pool.getconn)


def connect_failed(new_pool: MakePool, server: Postgres) -> PoolError:
    return error_of(new_pool(server.dsn(dbname="no such database"), name="shop").getconn)


def aborted(new_pool: MakePool, server: Postgres) -> PoolError:
    pool = new_pool(server.dsn(), name="shop")

    def swallow() -> None:
        with pool.connection() as conn, conn.cursor() as cursor:
            with pytest.raises(psycopg2.Error):
                cursor.execute("SELECT 1/0")

    return error_of(swallow)


RAISED = {
    PoolTimeout: timed_out,
    TooManyRequests: too_many,
    PoolClosed: closed,
    ConnectFailed: connect_failed,
    TransactionAborted: aborted,
}


@pytest.mark.parametrize("kind", RAISED)
def test_what_the_pool_raises_is_the_drivers_operational_error_too(
    kind: type[PoolError], new_pool: MakePool, postgres: Postgres
) -> None:
    error = RAISED[kind](new_pool, postgres)
    assert isinstance(error, kind)
    assert isinstance(error, PoolError)
    assert isinstance(error, psycopg2.OperationalError)
    assert type(error).__name__ == kind.__name__
    assert type(error).__module__ == kind.__module__


@pytest.mark.parametrize("kind", RAISED)
def test_its_class_is_made_once_not_per_raise(
    kind: type[PoolError], new_pool: MakePool, postgres: Postgres
) -> None:
    assert type(RAISED[kind](new_pool, postgres)) is type(RAISED[kind](new_pool, postgres))


@pytest.mark.parametrize("kind", [PoolTimeout, TooManyRequests, PoolClosed, ConnectFailed])
def test_it_says_in_one_sentence_what_happened_where(
    kind: type[PoolError], new_pool: MakePool, postgres: Postgres
) -> None:
    text = str(RAISED[kind](new_pool, postgres))
    assert "'shop'" in text
    assert "\n" not in text
    assert 20 < len(text) < 250


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_it_pickles_with_its_class_text_and_numbers(
    protocol: int, kind: type[PoolError], new_pool: MakePool, postgres: Postgres
) -> None:
    error = RAISED[kind](new_pool, postgres)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize("kind", RAISED)
def test_it_can_be_copied(kind: type[PoolError], new_pool: MakePool, postgres: Postgres) -> None:
    error = RAISED[kind](new_pool, postgres)
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert vars(again) == vars(error)


def test_it_arrives_in_another_process_with_or_without_the_driver(
    new_pool: MakePool, postgres: Postgres
) -> None:
    error = timed_out(new_pool, postgres)
    assert isinstance(error, PoolTimeout)
    program = """
import pickle, sys
if sys.argv[1] == "without":
    sys.modules["psycopg2"] = None
error = pickle.load(sys.stdin.buffer)
bases = {cls.__name__ for cls in type(error).__mro__}
print(type(error).__name__, "OperationalError" in bases, error.in_use, str(error))
"""
    for driver, combined in (("with", True), ("without", False)):
        done = subprocess.run(
            [sys.executable, "-c", program, driver],
            input=pickle.dumps(error),
            capture_output=True,
            timeout=PATIENCE,
            cwd=ROOT,
            check=True,
        )
        assert done.stdout.decode().strip() == f"PoolTimeout {combined} 1 {error}"


@pytest.mark.parametrize("kind", ALL)
def test_each_pickles_by_itself_and_combined(kind: type[PoolError]) -> None:
    for cls in (kind, for_driver(kind, psycopg2.OperationalError), for_driver(kind, StubError)):
        error = cls("what happened")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is cls
        assert str(again) == "what happened"


def test_the_numbers_of_a_timeout_travel() -> None:
    error = for_driver(PoolTimeout, psycopg2.OperationalError)("late")
    error.waited, error.size, error.in_use, error.waiting = 1.5, 4, 3, 2
    again = pickle.loads(pickle.dumps(error))
    assert (again.waited, again.size, again.in_use, again.waiting) == (1.5, 4, 3, 2)


def test_the_class_is_one_whoever_asks_first() -> None:
    class Fresh(Exception):
        pass

    found = [in_thread(for_driver, PoolTimeout, Fresh) for _ in range(16)]
    assert len({id(future.result(PATIENCE)) for future in found}) == 1


@pytest.mark.parametrize("kind", ALL)
def test_pool_error_is_the_root(kind: type[PoolError]) -> None:
    assert issubclass(kind, PoolError)
    assert getattr(dbpool, kind.__name__) is kind
    assert kind.__name__ in dbpool.__all__


def test_every_failed_acquire_is_caught_by_except_operational_error(
    new_pool: MakePool, postgres: Postgres
) -> None:
    """What code that was written for the driver alone does."""
    pool: ConnectionPool = new_pool(postgres.dsn(), max_size=1)
    caught: list[Any] = []
    with lent(pool, 1):
        try:
            pool.getconn(timeout=0)
        except psycopg2.OperationalError as error:
            caught.append(error)
    pool.close()
    try:
        with pool.connection():
            pass
    except psycopg2.Error as error:
        caught.append(error)
    assert [type(error).__name__ for error in caught] == ["PoolTimeout", "PoolClosed"]
    assert all(error.pgcode is None for error in caught)
