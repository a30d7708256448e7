"""Which threads of the pool are still there."""

from __future__ import annotations

import threading
from collections.abc import Collection

from tests.support.waiting import wait_until

__all__ = ["pool_threads", "wait_for_threads_to_end"]

# One per process for as long as it runs (dbpool._runtime.scheduler): the only one that may stay.
KEEPER = "dbpool-keeper"


def pool_threads() -> list[threading.Thread]:
    """Return the living threads of dbpool other than the keeper."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("dbpool-") and thread.name != KEEPER
    ]


def wait_for_threads_to_end(timeout: float, except_for: Collection[threading.Thread] = ()) -> None:
    """Wait until no thread of dbpool but the keeper is left; fail after `timeout` seconds."""

    def left() -> set[threading.Thread]:
        return set(pool_threads()) - set(except_for)

    wait_until(
        lambda: not left(),
        timeout,
        message=lambda: f"no thread left behind ({', '.join(t.name for t in left())})",
    )
