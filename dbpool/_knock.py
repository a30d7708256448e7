"""Whether a server that has fallen silent answers again, asked more often than a connect would.

A connect into silence repeats its first packet ever more rarely (after 1, 3 and 7 s, say), so a
network that works again is noticed seconds late. This sends first packets of its own, almost three
a second, and whoever connects goes on as soon as any of them is answered.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Sequence

from ._clock import monotonic

__all__ = ["EVERY", "answers"]

EVERY = 0.35  # seconds between two first packets to a host: fewer than three a second


def answers(endpoints: Sequence[tuple[str, str]], seconds: float) -> bool:
    """Return whether any host answers within so many seconds; a refusal is an answer, too.

    Arguments: `endpoints`, hosts and ports. None, or names that cannot be looked up, are answered
    with True: let the connect itself find out. Nothing is sent but what opens a connection.
    """
    end = monotonic() + seconds
    try:
        found = [socket.getaddrinfo(*one, type=socket.SOCK_STREAM) for one in endpoints]
    except OSError:
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
