"""A generator that is left early inside its block gives its connection back, and keeps it open."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.support.callers import PATIENCE, MakePool, expect_full_capacity, in_thread
from tests.support.servers import Postgres
from tests.support.sessions import one, run_sql


@pytest.fixture
def pool(pg_pool: MakePool, postgres: Postgres) -> ConnectionPool:
    run_sql(postgres, "DROP TABLE IF EXISTS left_early")
    run_sql(postgres, "CREATE TABLE left_early (i int)")
    return pg_pool(max_size=1)


def work(conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.execute("INSERT INTO left_early VALUES (1)")


def numbers(pool: ConnectionPool) -> Iterator[int]:
    with pool.connection() as conn:
        work(conn)
        yield from iter([1, 2])


def nested(pool: ConnectionPool) -> Iterator[int]:
    yield from numbers(pool)


def by_yield(pool: ConnectionPool) -> Iterator[int]:
    with pool.connection() as conn:
        work(conn)
        yield 1


def through_a_contextmanager(pool: ConnectionPool) -> Iterator[int]:
    @contextmanager
    def database() -> Iterator[Any]:
        with pool.connection() as conn:
            yield conn

    with database() as conn:
        work(conn)
        yield 1


def through_an_exit_stack(pool: ConnectionPool) -> Iterator[int]:
    with ExitStack() as stack:
        work(stack.enter_context(pool.connection()))
        yield 1


def with_a_cleanup_of_its_own(pool: ConnectionPool) -> Iterator[int]:
    with pool.connection() as conn:
        try:
            work(conn)
            yield 1
        except BaseException:
            gc.collect()  # whatever it does
            raise


def break_off(generator: Iterator[int]) -> None:
    for _ in generator:
        break


def close_it(generator: Any) -> None:
    next(generator)
    generator.close()


def forget_it(generator: Iterator[int]) -> None:
    next(generator)


GENERATORS = [
    by_yield,
    numbers,
    nested,
    through_a_contextmanager,
    through_an_exit_stack,
    with_a_cleanup_of_its_own,
]


@pytest.mark.parametrize("leave", [break_off, close_it, forget_it])
@pytest.mark.parametrize("generator", GENERATORS)
def test_a_generator_left_early_costs_no_connection_and_commits_nothing(
    generator: Callable[[ConnectionPool], Iterator[int]],
    leave: Callable[[Iterator[int]], None],
    pool: ConnectionPool,
    postgres: Postgres,
) -> None:
    for _ in range(5):
        leave(generator(pool))
    assert pool.get_stats()["connections_num"] == 1
    assert pool.get_stats()["returns_bad"] == 0
    assert run_sql(postgres, "SELECT * FROM left_early") == []
    expect_full_capacity(pool)


def test_a_generator_that_is_closed_in_another_thread_costs_no_connection(
    pool: ConnectionPool, postgres: Postgres
) -> None:
    """As a web framework does that takes each part of a stream in another thread."""
    generator: Any = by_yield(pool)
    next(generator)
    in_thread(generator.close).result(PATIENCE)
    with pool.connection() as conn:
        assert one(conn, "SELECT 1") == 1
    assert pool.get_stats()["connections_num"] == 1
    assert run_sql(postgres, "SELECT * FROM left_early") == []


async def rows(pool: ConnectionPool) -> AsyncIterator[int]:
    with pool.connection() as conn:
        work(conn)
        yield 1
        yield 2


async def rows_through_a_contextmanager(pool: ConnectionPool) -> AsyncIterator[int]:
    @asynccontextmanager
    async def database() -> AsyncIterator[Any]:
        with pool.connection() as conn:
            yield conn

    async with database() as conn:
        work(conn)
        yield 1


@pytest.mark.parametrize("generator", [rows, rows_through_a_contextmanager])
def test_an_asynchronous_generator_left_early_costs_no_connection(
    generator: Callable[[ConnectionPool], Any], pool: ConnectionPool, postgres: Postgres
) -> None:
    async def leave() -> None:
        opened = generator(pool)
        async for _ in opened:
            break
        await opened.aclose()
        forgotten = generator(pool)
        await forgotten.__anext__()
        del forgotten  # asyncio closes it
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert pool.get_stats()["connections_num"] == 1
    assert run_sql(postgres, "SELECT * FROM left_early") == []
    expect_full_capacity(pool)


class Never:
    """What another thread is at work on."""

    def __await__(self) -> Iterator[None]:
        yield


async def waits(pool: ConnectionPool) -> None:
    with pool.connection() as conn:
        work(conn)
        await Never()


async def waits_for_a_row(pool: ConnectionPool) -> AsyncIterator[int]:
    with pool.connection() as conn:
        work(conn)
        await Never()
        yield 1


@pytest.mark.parametrize("asynchronous", [waits, waits_for_a_row])
def test_what_is_left_while_it_awaits_costs_the_connection(
    asynchronous: Callable[[ConnectionPool], Any], pool: ConnectionPool, postgres: Postgres
) -> None:
    """`await asyncio.to_thread(conn.…)`: the thread goes on, and would be in the next loan."""
    waiting = asynchronous(pool)
    step = waiting if asynchronous is waits else waiting.asend(None)
    step.send(None)
    step.close()
    del step, waiting
    gc.collect()
    assert pool.get_stats()["pool_size"] == 0
    assert run_sql(postgres, "SELECT * FROM left_early") == []
    expect_full_capacity(pool)


def test_a_generator_left_in_the_midst_of_a_copy_costs_the_connection(
    pool: ConnectionPool,
) -> None:
    def copies() -> Iterator[int]:
        with pool.connection() as conn, conn.cursor() as cursor:
            with pytest.raises(Exception, match="COPY"):  # psycopg2: use copy_expert; it runs
                cursor.execute("COPY (SELECT 1) TO STDOUT")
            yield 1

    break_off(copies())
    with pool.connection() as conn:
        assert one(conn, "SELECT 42") == 42
    expect_full_capacity(pool)


def test_one_that_the_collector_finds_in_a_cycle_has_dropped_its_connection(
    pool: ConnectionPool, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector, which runs anywhere, takes weak references away first: no word is sent."""
    sent: list[Any] = []
    monkeypatch.setattr(pool.driver, "rollback", sent.append, raising=False)
    generator: Any = by_yield(pool)
    next(generator)
    cycle: list[Any] = [generator]
    cycle.append(cycle)
    del generator, cycle
    gc.collect()
    assert sent == []
    monkeypatch.undo()
    assert run_sql(postgres, "SELECT * FROM left_early") == []
    expect_full_capacity(pool)
