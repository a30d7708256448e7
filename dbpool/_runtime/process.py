"""Whether this is still the process that it was, and what begins anew where it is not.

Python calls hooks in a child that it forks itself. Of a fork in C it hears nothing: uWSGI loads an
app and then forks its workers so. Each of them would work on with its parent's connections, and get
answers that are another worker's. So everything that uses a pool looks here first:

    unforked or start_anew()

`unforked` is a byte on a page of memory of its own. The kernel hands a child that page wiped
(MADV_WIPEONFORK, Linux 4.14 and later), however it was forked, and so the byte is zero there. The
look costs some 3 ns: the truth of this one ctypes object is the cheapest read there is. Elsewhere
the number of the process is compared, which is as right and takes a hundred times as long. A
platform without fork looks at nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import wraps
from os import getpid
from typing import Any, ParamSpec, TypeVar

__all__ = ["notices_forks", "on_child", "start_anew", "unforked"]

P = ParamSpec("P")
R = TypeVar("R")

MADV_WIPEONFORK = 18  # which `mmap` has no name for

_callbacks: list[Callable[[], object]] = []
# One per process: that of a parent may be held for ever by a thread that does not exist here. A
# plain dict: single operations on it are atomic, and a fork can come between any two.
_locks: dict[int, Any] = {}
_told: set[int] = set()  # processes whose Python has been told of the fork that made them


class _SameNumber:
    """True in the process that has set `value`, by its number."""

    __slots__ = ("_number",)

    def __bool__(self) -> bool:
        return getpid() == self._number

    def _renew(self, value: bool) -> None:
        self._number = getpid()

    value = property(fset=_renew)


def _mark() -> Any:
    """Return an object that is true in this process alone, for as long as it is this one."""
    if not hasattr(os, "fork"):
        return True
    mark: Any = _SameNumber()
    if sys.platform == "linux":
        try:
            import ctypes
            import mmap

            page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(MADV_WIPEONFORK)
            mark = ctypes.c_bool.from_buffer(page)
        except (ImportError, OSError, ValueError):  # an old kernel, or a Python without ctypes
            pass
    mark.value = True
    return mark


unforked: Any = _mark()


def on_child(callback: Callable[[], object]) -> None:
    """Call `callback` once in each forked child, before anything of ours is used there.

    In the order of these calls. One that is interrupted is called again, so it has to be one that
    can be; and it must call nothing that looks whether there was a fork.
    """
    _callbacks.append(callback)


def start_anew() -> bool:
    """Leave to the parent process what is its own. Any thread may come; the first one does it.

    It is called where Python has heard nothing of the fork, or by the hook that Python calls.
    """
    with _own_lock():
        if not unforked:
            _tell_python()
        _begin()
    return True


def _own_lock() -> Any:
    return _locks.setdefault(getpid(), threading.RLock())


def _begin() -> None:
    """Call the callbacks, unless that was done in this process."""
    number = getpid()
    with _own_lock():
        # A signal handler that comes in here, in this very thread, does all of it for itself.
        if unforked:
            return
        for other in list(_locks):
            if other != number:
                _locks.pop(other, None)
        for callback in list(_callbacks):
            callback()
        unforked.value = True


def _tell_python() -> None:
    """Have CPython do after a fork in C what its documentation asks for: PyOS_AfterFork_Child().

    The lock of the interpreter is inherited with whoever waited for it at the fork. The first
    thread that lets go of it would wait for those, who are not there, for ever. This makes it anew,
    with the import lock and `threading`'s, and calls the hooks of all packages, ours among them. It
    forgets all other threads, so it is only for a child that has none of its own yet.
    """
    number = getpid()
    if number not in _told and _alone():
        import ctypes

        _told.clear()
        _told.add(number)
        ctypes.pythonapi.PyOS_AfterFork_Child()


def _alone() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # only Linux tells
        return False


def notices_forks(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function look first; for those that are not called often."""

    @wraps(function)
    def noticing(*args: P.args, **kwargs: P.kwargs) -> R:
        unforked or start_anew()
        return function(*args, **kwargs)

    return noticing


def _join_uwsgi() -> None:
    """Have uWSGI tell of its forks, too: before the worker does anything at all.

    Not needed, and whoever sets the one hook that there is after us takes our place in it. But
    also a connection that somebody took at import and uses without its pool is cut off so.
    """
    uwsgi: Any = sys.modules.get("uwsgi")  # there is a module of that name inside uWSGI only
    if uwsgi is None:
        return
    before = getattr(uwsgi, "post_fork_hook", None)

    def post_fork_hook() -> None:
        unforked or start_anew()
        if before is not None:
            before()

    uwsgi.post_fork_hook = post_fork_hook


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
_join_uwsgi()
