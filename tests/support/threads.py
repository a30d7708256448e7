"""Which threads of the pool are still there."""

from __future__ import annotations

import threading

__all__ = ["pool_threads"]

# One per process for as long as it runs (see dbpool._keeper): the only one that may stay.
KEEPER = "dbpool-keeper"


def pool_threads() -> list[threading.Thread]:
    """Return the living threads of dbpool other than the keeper."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("dbpool-") and thread.name != KEEPER
    ]
