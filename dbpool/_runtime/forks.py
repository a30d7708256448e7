"""What happens to pools in a forked child: they start empty, the parent's sessions are left alone.

An inherited connection shares its socket with the parent's. Closing it would end the parent's
session, and using it would mix both processes' answers. So the null device is laid over its
descriptor before anything of ours can use it in the child, and its object is kept: what the driver
does with it from then on reaches nobody.
"""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from . import process, sockets, threads
from .process import start_anew, unforked

__all__ = ["abandon", "bereave", "on_child", "watch"]

logger = logging.getLogger("dbpool.pool")


class Watched(Protocol):
    """What begins anew in a forked child, and ends with the process: a pool."""

    def _start_in_child(self) -> None:
        """Leave to the parent what is its own, and start empty."""

    def _at_exit(self) -> None:
        """Close what is idle, without waiting."""


# A plain dict: single operations on it are atomic, and a fork can come between any two.
_pools: dict[int, weakref.ref[Watched]] = {}
_callbacks: list[Callable[[], object]] = []
_kept: list[Any] = []  # their destructors may wait for locks of threads that do not exist here
_bereft: list[Any] = []  # owners of what was lent at the fork, to be told of it


def watch(pool: Watched) -> None:
    """Have the pool start anew in forked children."""
    key = id(pool)
    _pools[key] = weakref.ref(pool, lambda ref: _pools.pop(key, None))


def on_child(callback: Callable[[], object]) -> None:
    """Call `callback` in each forked child, after the pools have been renewed."""
    _callbacks.append(callback)


def abandon(driver: Any, conn: Any) -> None:
    """Cut an inherited connection off from its socket, without a byte written, and keep it."""
    fd = driver.fileno(conn)
    if fd is not None:
        sockets.overlay(fd)
    _kept.append(conn)


def bereave(owner: Any) -> None:
    """Have an owner told, once all pools have been renewed, that what it was lent is not its own.

    Arguments: `owner`, as `ConnectionPool.own` takes it; it may have a method `forked()`.
    """
    if hasattr(owner, "forked"):
        _bereft.append(owner)


def _in_child() -> None:
    for ref in list(_pools.values()):
        pool = ref()
        if pool is not None:
            pool._start_in_child()
    for callback in list(_callbacks):
        callback()
    while _bereft:
        try:
            _bereft[-1].forked()
        except Exception:  # a backend's or an app's own: the others are told all the same
            logger.exception("what held a connection at a fork could not let go of it")
        del _bereft[-1:]


def _at_exit() -> None:
    """Close what is idle politely; nothing is waited for but threads that are being started."""
    unforked or start_anew()
    threads.end()
    for ref in list(_pools.values()):
        pool = ref()
        if pool is not None:
            pool._at_exit()


atexit.register(_at_exit)
process.on_child(_in_child)
