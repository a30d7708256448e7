"""A thread of ours that dies before it has begun: nobody waits for it without an end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectionPool
from tests.health.probing import ask, check_of
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, expect_full_capacity, in_thread
from tests.support.threads import KEEPER
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::pytest.{name}")
    for name in ("PytestUnraisableExceptionWarning", "PytestUnhandledThreadExceptionWarning")
]


class Dying:
    """Has threads with names that begin so die, as of a MemoryError in their first lines."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.died: list[str] = []


@pytest.fixture(params=["before it reports in", "right after that"])
def dying(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dying]:
    dying = Dying()
    first = "_set_ident" if request.param == "before it reports in" else "run"
    as_ever = getattr(inside.threads.Thread, first)

    def die(thread: Any) -> None:
        if thread.name.startswith(dying.names or "\0"):
            dying.died.append(thread.name)
            raise MemoryError
        as_ever(thread)

    # No server can be made to show it: these lines are where it strikes.
    monkeypatch.setattr(inside.threads.Thread, first, die)
    inside.patch(monkeypatch, "BEGIN_WITHIN", 0.1)
    # CPython keeps a thread that never reported in listed for ever.
    monkeypatch.setattr(threading, "enumerate", lambda: _without(dying.died))
    yield dying
    limbo: dict[Any, Any] = threading._limbo  # type: ignore[attr-defined]
    for thread in [each for each in limbo if each.name in dying.died]:
        del limbo[thread]


def _without(died: list[str]) -> list[threading.Thread]:
    return [each for each in _enumerate() if each.is_alive() or each.name not in died]


_enumerate = threading.enumerate


def use(pool: ConnectionPool) -> None:
    with pool.connection(PATIENCE / 2):
        pass


def test_callers_connect_where_the_threads_for_it_die(dying: Dying, stub_pool: MakePool) -> None:
    dying.names = ("dbpool-connect",)
    pool = stub_pool(max_size=2)
    in_thread(use, pool).result(PATIENCE)
    assert dying.died
    expect_full_capacity(pool)
    inside.audit(pool)


def test_the_keeper_sees_to_other_pools_meanwhile(dying: Dying, stub_pool: MakePool) -> None:
    other = stub_pool(max_size=1)
    in_thread(use, other).result(PATIENCE)
    dying.names = ("dbpool-connect",)
    in_thread(use, stub_pool(max_size=1)).result(PATIENCE)
    in_thread(other.getconn, PATIENCE).result(PATIENCE)  # and dropped

    def found() -> bool:
        gc.collect()
        return other.get_stats()["connections_dropped"] == 1

    wait_until(found, PATIENCE)


def test_callers_are_served_where_the_keeper_dies(
    dying: Dying, stub_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "scheduler_thread", None)
    dying.names = (KEEPER,)
    pool = stub_pool(max_size=2)
    in_thread(use, pool).result(PATIENCE)
    assert dying.died
    dying.names = ()
    expect_full_capacity(pool)


def test_health_answers_where_the_prober_dies(dying: Dying, pg_pool: MakePool) -> None:
    dying.names = ("dbpool-prober",)
    pool = pg_pool(max_size=1)
    use(pool)
    assert ask(check_of(pool, ttl=0.001))[0] == "pass"
    assert dying.died


def test_max_use_ends_a_loan_where_the_cancelling_thread_dies(
    dying: Dying, pg_pool: MakePool
) -> None:
    dying.names = ("dbpool-cancel",)
    pool = pg_pool(max_size=1, max_use=0.2)
    with pytest.raises(psycopg2.OperationalError), pool.connection() as conn:
        conn.cursor().execute("SELECT pg_sleep(100)")
    assert dying.died
    dying.names = ()
    expect_full_capacity(pool)
