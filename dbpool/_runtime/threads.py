"""The pool's own threads: starting them, and starting none any more once the process ends.

CPython 3.10 crashes where a thread that was started runs its first instruction after the
interpreter has ended: what it looks at is gone. So who ends the process waits for those that are
just being started, and from then on none is, as CPython itself has it from 3.12 on: callers
connect themselves.

`threading.Thread.start()` waits until the new thread has reported in. One that dies before that (of
a MemoryError in its first lines) would be waited for without an end, by the keeper or by a caller.
Here that counts as a thread that cannot be had.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from . import process
from .clock import monotonic

__all__ = ["Thread", "end", "forget", "start"]

PATIENCE = 0.5  # seconds that the end of a process waits; a busy machine begins a thread within
BEGIN_WITHIN = 2.0  # seconds after which a thread that has not begun its work is given up

# Weak, since an exception may strike before a start is forgotten. A plain dict: single operations
# on it are atomic, and a fork can come between any two.
_being_started: dict[int, weakref.ref[threading.Thread]] = {}
_ended = False


class Thread(threading.Thread):
    """A daemon thread whose `start` waits for a limited time.

    Who has taken its work first, the thread itself or a `start` that gives it up, decides.
    """

    def __init__(self, target: Callable[..., object], args: tuple[Any, ...], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = [(target, args)]
        self._begun = threading.Event()
        # CPython's own event, which it waits for without a limit. It has the name since 3.3.
        self._started: Any = _Limited(self._started)

    def run(self) -> None:
        """Do the work, unless it has been taken back."""
        try:
            target, args = self._work.pop()
        except IndexError:
            return
        self._begun.set()
        target(*args)

    def start(self) -> None:
        """Start it. Raises RuntimeError where it does not begin, too."""
        until = monotonic() + BEGIN_WITHIN
        super().start()
        if not self._begun.wait(until - monotonic()):
            try:
                self._work.pop()
            except IndexError:  # it has just begun
                return
            raise RuntimeError(f"a new thread has not begun within {BEGIN_WITHIN:g} s")


class _Limited:
    """An event on which nobody waits longer than a thread may take to begin."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def wait(self) -> None:
        self._event.wait(BEGIN_WITHIN)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._event, name)


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


process.on_child(forget)
