"""Servers for the tests, and a look after each test at what it left behind.

A test that only uses a server takes `postgres`; one that stops, kills or freezes it takes
`breakable_postgres`. Without any server on the machine the tests fail: a skipped suite proves
nothing.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest

from testproject.postgres import PostgresServer
from tests.support.servers import GivenPostgres, Postgres
from tests.support.threads import pool_threads, wait_for_threads_to_end
from tests.support.waiting import PATIENCE

# What a shell starts in the background ignores these two, and so would whatever the tests start.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

SCRAM_PASSWORD = "it's a \\secret/?@: ünd %41"


COMPUTING = 800.0  # seconds after which one that `computes` hangs, whatever runs beside it
# The files that take longest begin first: no worker is left with one when all others are done.
SLOW = (
    "web_django/test_commands.py",
    "web_django/test_round_trips.py",
    "drivers/test_bounded.py",
    "core/test_fork.py",
    "drivers/test_gevent.py",
    "web_django/test_settings.py",
    "core/test_validation.py",
    "core/test_growth.py",
    "web_django/test_checks.py",
    "web_django/test_outages.py",
    "core/test_injection_everywhere.py",
    "outages/test_scenarios.py",
    "test_postgres.py",
    "web_flask/test_gunicorn_ends.py",
    "demo/test_demo.py",
    "web_django/",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow files, where several run at once; give computing its time."""
    if hasattr(config, "workerinput"):
        items.sort(key=_place)
    for item in items:
        if item.get_closest_marker("computes") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(COMPUTING))


def _place(item: pytest.Item) -> int:
    path = item.nodeid.removeprefix("tests/")
    return next((place for place, slow in enumerate(SLOW) if path.startswith(slow)), len(SLOW))


def pytest_collection_finish() -> None:
    """Spare each of the tests' collections a look at all the modules: 30 ms, and some do 500."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server for ordinary tests: our own, or that of DBPOOL_TEST_DSN. Do not break it."""
    if given := os.environ.get("DBPOOL_TEST_DSN"):
        yield GivenPostgres(given)
        return
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """Yield the module's own server; take `breakable_postgres` instead."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def breakable_postgres(own_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A running server of this module's own, which the test may stop, kill or freeze.

    Whatever the test did to it, the next one finds it running. Never that of DBPOOL_TEST_DSN.
    """
    own_postgres.ensure_running()
    yield own_postgres
    own_postgres.thaw()


@pytest.fixture(scope="session")
def scram_postgres() -> Iterator[PostgresServer]:
    """A server that asks for a password over TCP (SCRAM), and one full of awkward characters."""
    with PostgresServer(password=SCRAM_PASSWORD) as server:
        yield server


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test that leaves a thread of ours behind, other than the keeper.

    A thread that is ending gets some seconds: a connector may still wait for its server.
    """
    before = pool_threads()
    yield
    wait_for_threads_to_end(timeout=PATIENCE, except_for=before)
