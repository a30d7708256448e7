"""Waiting for a condition instead of sleeping for a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE", "wait_until"]

PATIENCE = 30.0  # seconds after which something hangs; never what a test measures

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    timeout: float = PATIENCE,
    message: str | Callable[[], str] = "",
    interval: float = 0.005,
) -> T:
    """Return condition()'s first true value, or fail the test after `timeout` seconds.

    `message` says what was waited for; a callable is asked at the time of failing. Exceptions of
    the condition are not caught.
    """
    until = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > until:
            said = message() if callable(message) else message
            raise AssertionError(f"{said or 'the condition'}: not so after {timeout:g} s")
        time.sleep(interval)
    return value
