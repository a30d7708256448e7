"""No fork comes while a connect of ours is inside the C libraries, if that can be had in time.

A connect passes through locks of libraries that know nothing of forks. Children were seen to hang
for ever in their first connect, on the lock of the Kerberos library's list of mechanisms (libpq
asks for it at each connect over TCP), of OpenSSL's random numbers, and of the C library's resolver:
another thread held it at the fork, so in the child nobody will release it. The last two are also
taken by a thread that has connected when it ends, after it has left Python.

So a fork waits for connects under way and for such threads, and a connect waits for a fork. Neither
for long: a connect that takes longer is waiting for the network, and holds no such lock.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from time import sleep  # not that of a monkey-patch which comes later: a hook must not switch

from . import process
from .clock import monotonic

__all__ = ["NoFork"]

PATIENCE = 0.1  # seconds that a fork waits
LONGEST = 1.0  # seconds that a connect waits for a fork, which takes some milliseconds
MANY = 256  # threads that have connected, from which on those that are gone are forgotten
_STEP = 0.0005

# The operating system's number. Greenlets share theirs: one that is switched out in the midst of
# a connect waits for the network, and another that forks must not wait for it.
_thread_id = getattr(threading, "get_native_id", threading.get_ident)

# Plain dicts: single operations on them are atomic, and a fork can come between any two.
_connects: dict[int, weakref.ref[NoFork]] = {}  # weak: an exception may strike between any two
_connected: dict[int, int] = {}  # threads that may have such locks to take when they end: ident
_forks: dict[int, float] = {}  # by thread; since when
_numbers = itertools.count()


class NoFork:
    """`with NoFork():` around a connect; waits while another thread forks."""

    __slots__ = ("__weakref__", "_number", "thread")

    def __init__(self) -> None:
        self.thread = _thread_id()
        self._number = next(_numbers)

    def __enter__(self) -> None:
        if len(_connected) >= MANY:
            _leaving()
        _connected[self.thread] = threading.get_ident()
        until = monotonic() + LONGEST
        while True:
            # In this order, and a fork the other way round: one of the two sees the other.
            _connects[self._number] = weakref.ref(self)
            if not _another_forks(self.thread) or monotonic() >= until:
                return
            del _connects[self._number]
            sleep(_STEP)

    def __exit__(self, *exc: object) -> None:
        _connects.pop(self._number, None)


def _another_forks(mine: int) -> bool:
    # The age, since an exception may strike before a fork is forgotten.
    recent = monotonic() - LONGEST
    return any(thread != mine and since > recent for thread, since in list(_forks.items()))


def _another_connects(mine: int) -> bool:
    found = False
    for number, ref in list(_connects.items()):
        connect = ref()
        if connect is None:
            _connects.pop(number, None)
        elif connect.thread != mine:
            found = True
    return found


def _leaving() -> bool:
    """Return whether a thread that has connected has left Python and is still there."""
    if not _connected:
        return False
    try:
        there = set(map(int, os.listdir("/proc/self/task")))
    except OSError:  # only Linux tells
        return False
    in_python = set(sys._current_frames())  # not the frames: our own is one, and would hold all
    found = False
    for thread, ident in list(_connected.items()):
        if thread not in there:
            _connected.pop(thread, None)
        elif ident not in in_python:
            found = True
    return found


def _before() -> None:
    mine = _thread_id()
    _forks[mine] = now = monotonic()
    while (_another_connects(mine) or _leaving()) and monotonic() < now + PATIENCE:
        sleep(_STEP)


def _in_parent() -> None:
    _forks.pop(_thread_id(), None)


def _in_child() -> None:
    _forks.clear()
    _connects.clear()
    _connected.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent)
process.on_child(_in_child)
