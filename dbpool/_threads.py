"""Starting the pool's own threads, and starting none any more once the process ends.

CPython 3.10 crashes where a thread that was started runs its first instruction after the
interpreter has ended: what it looks at is gone. So who ends the process waits for those that are
just being started, and from then on none is, as CPython itself has it from 3.12 on: callers
connect themselves.
"""

from __future__ import annotations

import threading
import time
import weakref

from . import _process
from ._clock import monotonic

__all__ = ["end", "forget", "start"]

PATIENCE = 0.5  # seconds that the end of a process waits; a busy machine begins a thread within

# Weak, since an exception may strike before a start is forgotten. A plain dict: single operations
# on it are atomic, and a fork can come between any two.
_being_started: dict[int, weakref.ref[threading.Thread]] = {}
_ended = False


def start(thread: threading.Thread) -> None:
    """Start a thread. Raises RuntimeError where none can be had, as Thread.start() does."""
    # In this order, and `end` the other way round: one of the two sees the other.
    _being_started[id(thread)] = weakref.ref(thread)
    try:
        if _ended:
            raise RuntimeError("no thread is started any more: the process ends")
        thread.start()
    finally:
        _being_started.pop(id(thread), None)


def end() -> None:
    """Have no more threads started; return when those run that are just being started."""
    global _ended
    _ended = True
    until = monotonic() + PATIENCE
    while any(ref() for ref in list(_being_started.values())) and monotonic() < until:
        time.sleep(0.0005)


def forget() -> None:
    """Begin anew in a forked child, which has none of its parent's threads."""
    global _ended
    _ended = False
    _being_started.clear()


_process.on_child(forget)
