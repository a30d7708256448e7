"""`with deadline(...)`: nobody inside waits for a connection beyond it."""

from __future__ import annotations

import contextvars
import threading
import time
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolTimeout, deadline
from tests.support.callers import PATIENCE, MakePool, in_thread, lent, wait_for_waiters
from tests.support.clock import FakeClock


def waited(pool: ConnectionPool, timeout: float | None = None) -> float:
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout)
    return caught.value.waited


@pytest.fixture
def full(stub_pool: MakePool) -> Any:
    """A pool that has nothing to give, and would let callers wait for long."""
    pool = stub_pool(max_size=1, timeout=4 * PATIENCE)
    with lent(pool, 1):
        yield pool


def test_it_caps_what_a_caller_waits(full: ConnectionPool) -> None:
    with deadline(0.2):
        assert waited(full) < PATIENCE
    with deadline(0.2), pytest.raises(PoolTimeout), full.connection():
        pass


def test_it_caps_a_timeout_of_the_call_too(full: ConnectionPool) -> None:
    with deadline(0.2):
        assert waited(full, 4 * PATIENCE) < PATIENCE


def test_a_shorter_timeout_wins(full: ConnectionPool) -> None:
    with deadline(4 * PATIENCE):
        assert waited(full, 0.1) < PATIENCE


def test_the_earlier_of_two_counts_and_the_outer_one_is_back_at_the_end(
    full: ConnectionPool,
) -> None:
    with deadline(0.2):
        with deadline(4 * PATIENCE):
            assert waited(full) < PATIENCE
        assert waited(full) < PATIENCE
    with deadline(4 * PATIENCE):
        with deadline(0.2):
            assert waited(full) < PATIENCE
        with pytest.raises(PoolTimeout):
            full.getconn(0.1)


def test_time_that_is_spent_before_counts(
    full: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    clock.install(monkeypatch)
    with deadline(5.0):
        clock.now += 6.0
        assert waited(full) < PATIENCE  # on a clock that stands still: at once


def test_who_is_late_still_gets_what_lies_idle(stub_pool: MakePool) -> None:
    pool = stub_pool(max_size=1)
    pool.putconn(pool.getconn())
    with deadline(-1.0):
        pool.putconn(pool.getconn())


def test_it_ends_with_its_block(full: ConnectionPool) -> None:
    with deadline(0.0):
        pass
    waiter = in_thread(full.getconn)
    wait_for_waiters(full, 1)
    with pytest.raises(ValueError, match="deadline"), deadline(0.0):
        raise ValueError("deadline")
    assert not waiter.done()
    full.close()
    assert waiter.exception(PATIENCE) is not None


def test_it_holds_in_a_copied_context_and_not_in_another_thread(full: ConnectionPool) -> None:
    with deadline(0.2):
        context = contextvars.copy_context()
        free = in_thread(full.getconn)
        wait_for_waiters(full, 1)
    assert in_thread(context.run, waited, full).result(PATIENCE) < PATIENCE
    assert not free.done()
    full.close()
    assert free.exception(PATIENCE) is not None


def test_two_threads_have_their_own(full: ConnectionPool) -> None:
    inside = threading.Event()

    def other() -> float:
        with deadline(0.1):
            inside.set()
            return waited(full)

    first = in_thread(other)
    assert inside.wait(PATIENCE)
    second = in_thread(full.getconn)
    assert first.result(PATIENCE) < PATIENCE
    wait_for_waiters(full, 1)
    full.close()
    assert second.exception(PATIENCE) is not None


@pytest.mark.parametrize("wrong", [None, "1", float("inf"), float("nan"), True])
def test_what_is_no_number_of_seconds_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="deadline"):
        deadline(wrong)


def test_one_object_is_entered_once_at_a_time() -> None:
    one = deadline(1.0)
    with one:
        with pytest.raises(RuntimeError, match="call deadline"):
            one.__enter__()
    with one:
        started = time.monotonic()
    assert time.monotonic() - started < PATIENCE
