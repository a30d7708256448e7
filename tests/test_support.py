"""The nets that the other tests rely on do catch."""

from __future__ import annotations

import threading

import pytest

from tests.support.threads import pool_threads, wait_for_threads_to_end
from tests.support.waiting import wait_until


def test_waiting_returns_the_value_or_fails_with_what_was_waited_for() -> None:
    answers = iter([0, [], "here"])
    assert wait_until(lambda: next(answers)) == "here"
    with pytest.raises(AssertionError, match=r"the moon: not so after 0\.02 s"):
        wait_until(lambda: False, timeout=0.02, message="the moon")


def test_a_thread_of_the_pool_left_behind_is_reported_and_the_keeper_is_not() -> None:
    end = threading.Event()
    keeper = threading.Thread(target=end.wait, name="dbpool-keeper")
    connector = threading.Thread(target=end.wait, name="dbpool-connect-shop")
    keeper.start()
    wait_for_threads_to_end(timeout=0)
    connector.start()
    try:
        with pytest.raises(AssertionError, match="dbpool-connect-shop"):
            wait_for_threads_to_end(timeout=0.05)
        wait_for_threads_to_end(timeout=0, except_for=pool_threads())
    finally:
        end.set()
        connector.join()
        keeper.join()
    wait_for_threads_to_end(timeout=0)
