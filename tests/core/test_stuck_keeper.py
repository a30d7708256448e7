"""A log handler that blocks has the keeper in its hands: no pool needs it to connect."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator

import pytest

from dbpool import ConnectionPool
from tests.support.callers import PATIENCE, MakePool, expect_full_capacity, in_thread
from tests.support.threads import KEEPER
from tests.support.waiting import wait_until


def use(pool: ConnectionPool) -> None:
    with pool.connection(PATIENCE / 2):
        pass


class Blocking(logging.Handler):
    """Keeps the keeper, with what it has to tell, until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.entered = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if threading.current_thread().name == KEEPER:
            self.entered.set()
            self.go.wait(2 * PATIENCE)


@pytest.fixture
def stuck_keeper(stub_pool: MakePool) -> Iterator[ConnectionPool]:
    """Return the pool whose lost connection the keeper wants to tell of."""
    handler = Blocking()
    logger = logging.getLogger("dbpool.pool")
    logger.addHandler(handler)
    try:
        pool = stub_pool(max_size=1)
        in_thread(pool.getconn, PATIENCE).result(PATIENCE)  # and dropped
        wait_until(lambda: bool(gc.collect() or handler.entered.is_set()), PATIENCE)
        yield pool
    finally:
        handler.go.set()
        logger.removeHandler(handler)


def test_callers_of_all_pools_get_connections(
    stuck_keeper: ConnectionPool, stub_pool: MakePool
) -> None:
    for pool in (stuck_keeper, stub_pool(max_size=2)):
        in_thread(use, pool).result(PATIENCE)
        expect_full_capacity(pool)


def test_the_minimum_is_made_for_who_waits_for_it(
    stuck_keeper: ConnectionPool, stub_pool: MakePool
) -> None:
    del stuck_keeper
    pool = stub_pool(min_size=2)
    pool.wait(PATIENCE / 2)
    assert not pool.closed
