"""What a server's host does with a first packet: that alone is sent, and no login made.

A connect into silence repeats its first packet ever more rarely (after 1, 3 and 7 s, say), so a
network that works again is noticed seconds late. This sends first packets of its own, almost three
a second, and whoever connects goes on as soon as any of them is answered.

The operating system's error numbers tell what a driver has only in words, of some language.
"""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Sequence
from typing import Any

from .clock import monotonic

__all__ = ["ACCEPTED", "NO_NAME", "REFUSED", "SILENCE", "answers", "met", "resolves"]

# What a first packet has met with.
ACCEPTED, REFUSED, SILENCE, NO_NAME = "accepted", "refused", "silence", "no name"

_UNREACHABLE = frozenset(
    getattr(errno, name)
    for name in ("EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN", "ETIMEDOUT")
    if hasattr(errno, name)
)

EVERY = 0.35  # seconds between two first packets to a host: fewer than three a second


def answers(endpoints: Sequence[tuple[str, str]], seconds: float) -> bool:
    """Return whether any host answers within so many seconds; a refusal is an answer, too.

    Arguments: `endpoints`, hosts and ports. None, or names that cannot be looked up, are answered
    with True: let the connect itself find out. Nothing is sent but what opens a connection.
    """
    end = monotonic() + seconds
    try:
        found = [socket.getaddrinfo(*one, type=socket.SOCK_STREAM) for one in endpoints]
    except (OSError, UnicodeError):
        return True
    addresses = [each for one in found for each in one]
    if not addresses:
        return True
    # Each stays open: the answer to an early one may only be slow.
    pending: list[socket.socket] = []
    with selectors.DefaultSelector() as selector:
        try:
            while (left := end - monotonic()) > 0:
                for family, kind, protocol, _, address in addresses:
                    pending.append(socket.socket(family, kind, protocol))
                    pending[-1].setblocking(False)
                    pending[-1].connect_ex(address)
                    selector.register(pending[-1], selectors.EVENT_WRITE)
                if selector.select(min(EVERY, left)):
                    return True
        except OSError:  # no more descriptors, say
            return True
        finally:
            for each in pending:
                each.close()
    return False


def resolves(endpoints: Sequence[tuple[str, str]]) -> bool:
    """Return whether any of the names can be looked up; no names are none to fail.

    Takes as long as the C library does, which may be longer than any connect.
    """
    return not endpoints or bool(_addresses(endpoints))


def met(endpoints: Sequence[tuple[str, str]], seconds: float) -> str:
    """Return what one first packet to each host has met with; the best of them counts.

    ACCEPTED also where there is nothing to look at, such as a unix socket's path.
    """
    if not endpoints:
        return ACCEPTED
    addresses = _addresses(endpoints)
    if not addresses:
        return NO_NAME
    end = monotonic() + seconds
    seen = {SILENCE}
    pending: list[socket.socket] = []
    with selectors.DefaultSelector() as selector:
        try:
            for family, kind, protocol, _, address in addresses:
                pending.append(socket.socket(family, kind, protocol))
                pending[-1].setblocking(False)
                error = pending[-1].connect_ex(address)
                if error in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                    selector.register(pending[-1], selectors.EVENT_WRITE)
                else:
                    seen.add(_outcome(error))
            while ACCEPTED not in seen and selector.get_map() and (left := end - monotonic()) > 0:
                for key, _ in selector.select(left):
                    one: Any = selector.unregister(key.fileobj).fileobj
                    seen.add(_outcome(one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
        except OSError:  # no more descriptors, say: that is no word about the server
            return ACCEPTED
        finally:
            for each in pending:
                each.close()
    return next(one for one in (ACCEPTED, REFUSED, SILENCE) if one in seen)


def _outcome(error: int) -> str:
    if error in (errno.ECONNREFUSED, errno.ECONNRESET):
        return REFUSED
    # Told by the network, or by this machine, about a host that has said nothing.
    return SILENCE if error in _UNREACHABLE else ACCEPTED


def _addresses(endpoints: Sequence[tuple[str, str]]) -> list[Any]:
    """Return the addresses of all names that can be looked up."""
    found: list[Any] = []
    for one in endpoints:
        try:
            found += socket.getaddrinfo(*one, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # the latter for what is no name
            pass
    return found
