"""Who holds a pool's connections, in few words: for the caller that gets none."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._store.inventory import Inventory

__all__ = ["held"]

NAMED = 3  # threads named in one message
LENGTH = 40  # characters of a name


def held(store: Inventory, now: float) -> str:
    """Return for how long connections are held, and by which threads; "" if none is.

    A thread that lives on without returning what it has taken stands first.
    """
    loans = sorted((entry.since, entry.holder) for entry in list(store.in_use.values()))
    if not loans:
        return ""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    living = dict.fromkeys(names[holder] for _, holder in loans if holder in names)
    ended = sum(holder not in names for _, holder in loans)
    parts = [repr(name[:LENGTH]) for name in list(living)[:NAMED]]
    if len(living) > NAMED:
        parts.append(f"{len(living) - NAMED} more")
    if ended:
        parts.append("a thread that has ended" if ended == 1 else f"{ended} that have ended")
    by = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return f"held for up to {now - loans[0][0]:.2f} s, by threads: {by}"
