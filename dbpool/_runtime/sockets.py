"""What can be learnt from, and done to, a socket that belongs to a driver's connection.

`look` tells without a round trip whether the server has hung up. It decides on the hang-up events
alone: reading what has arrived and looking again calls a dead connection alive as long as the
server's farewell message is there and its FIN is not (up to 33 ms).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["ALIVE", "DEAD", "SUSPECT", "Poll", "look", "overlay", "poller", "sever", "sever_of"]

ALIVE, SUSPECT, DEAD = "alive", "suspect", "dead"

Poll = Callable[[int], "list[tuple[int, int]]"]

_IN = getattr(select, "POLLIN", 1)
_HANG_UP = (
    getattr(select, "POLLHUP", 16)
    | getattr(select, "POLLERR", 8)
    | getattr(select, "POLLNVAL", 32)
    | getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere a half-closed socket is only readable
)


class Numbering(Protocol):
    """What tells the descriptor of a connection: a driver."""

    def fileno(self, conn: Any) -> int | None:
        """Return it, None where there is no socket."""


def poller(fd: int) -> Poll:
    """Return a function that polls `fd`; make it once per connection, it costs more than a poll."""
    poll = _real_poll()
    if poll is None:  # Windows, and some monkey-patching

        def by_select(timeout_ms: int) -> list[tuple[int, int]]:
            readable, _, broken = select.select([fd], [], [fd], timeout_ms / 1000)
            return [(fd, (_IN if readable else 0) | (_HANG_UP if broken else 0))] * bool(
                readable or broken
            )

        return by_select
    polled = poll()
    polled.register(fd, _IN | getattr(select, "POLLPRI", 2) | getattr(select, "POLLRDHUP", 0))
    return polled.poll  # type: ignore[no-any-return]


def _real_poll() -> Any:
    """Return what makes a poll object, None where there is none.

    Not gevent's stand-in: that reports no hang-up, and lets other greenlets run even if it is
    asked not to wait, in the midst of code that counts on keeping its turn.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and hasattr(select, "poll"):
        return monkey.get_original("select", "poll")
    return getattr(select, "poll", None)


def look(poll: Poll | None) -> str:
    """Return ALIVE, SUSPECT (something is there to read: only a ping can tell) or DEAD.

    About 1 µs, no round trip. The caller must own the connection: a poll object refuses to be
    used by two threads at once.
    """
    if poll is None:
        return ALIVE
    try:
        events = poll(0)
    except OSError as error:
        return DEAD if error.errno in (errno.EBADF, errno.ENOTSOCK) else SUSPECT
    except ValueError:  # select() of a closed descriptor
        return DEAD
    if not events:
        return ALIVE
    return DEAD if events[0][1] & _HANG_UP else SUSPECT


def sever(fd: int) -> None:
    """Shut the connection on `fd` down, from any thread; who is blocked in it gets an error.

    Works on a duplicate, so that nothing is closed under the owner. The caller guarantees that
    the owner does not close `fd` meanwhile.
    """
    try:
        with socket.socket(fileno=os.dup(fd)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed or cut already
        pass


def sever_of(driver: Numbering, conn: Any) -> None:
    """Shut down the socket of a connection that is somebody else's, and may close at any moment.

    A descriptor is looked up, duplicated and looked up again: if it is still the connection's, then
    it was when it was duplicated, and the duplicate is of no other socket that took its number.
    """
    fd = driver.fileno(conn)
    if fd is None:
        return
    try:
        with socket.socket(fileno=os.dup(fd)) as duplicate:
            if driver.fileno(conn) == fd:
                duplicate.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed or cut already
        pass


def overlay(fd: int) -> None:
    """Put the null device over `fd`: whatever its owner sends from now on goes nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null, fd, inheritable=False)
    except OSError:
        pass
    finally:
        os.close(null)
