"""How often a server that is down is tried: by all pools of a process together."""

from __future__ import annotations

import random
import threading
import weakref
from collections import deque
from typing import Any, Protocol

from .._runtime import process

__all__ = ["Server", "forget_servers", "server_at"]

PER_SECOND = 3  # connects to a server that is down, over all pools of the process
WITHIN = 1.02  # seconds: a little over one, for a thread may take its time from here to the connect
SPACING = WITHIN / PER_SECOND  # seconds between two of them where they fail at once
SLOWEST = 2.0  # seconds between two of them at most
TURN = 0.05  # seconds that those wait longer whose turn it is not


class Down(Protocol):
    """The outage of one pool, which waits for its turn to try."""

    def try_now(self) -> None:
        """Have the pool try at once."""


class Server:
    """How often a server that is down is tried, by all pools of this process together."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards all of this; taken after a pool's, never before
        self._started: deque[float] = deque(maxlen=PER_SECOND)
        self._next_at = 0.0
        self._pause = 0.0
        # The pools that are down, in the order in which it is their turn; by id.
        self._down: dict[int, weakref.ref[Down]] = {}

    def started(self, now: float) -> None:
        """A connect begins, whatever the state."""
        with self._lock:
            self._started.append(now)

    def due(self, outage: Down) -> float:
        """Return when this pool may try again."""
        with self._lock:
            due = self._next_at
            if len(self._started) == PER_SECOND:
                due = max(due, self._started[0] + WITHIN)
            return due if next(iter(self._down), id(outage)) == id(outage) else due + TURN

    def claim(self, outage: Down, now: float) -> bool:
        """Take the next attempt, if it is due."""
        with self._lock:
            if now < self.due(outage):
                return False
            # It goes to the end, and so does one that has missed its turn: closed, or given up.
            for key in {next(iter(self._down), id(outage)), id(outage)}:
                if (ref := self._down.pop(key, None)) is not None and ref() is not None:
                    self._down[key] = ref
            self._next_at = now + SPACING
            self._started.append(now)
            return True

    def failed(
        self,
        outage: Down,
        now: float,
        since: float,
        *,
        answered: bool = False,
        unclear: bool = False,
    ) -> None:
        """Put the next attempt off: little if this one was answered or failed at once, else longer.

        From one beginning to the next: one that hung for longer than that has waited already.
        Arguments: `answered`, whether it was refused by one that may take the next; `unclear`,
        whether it was refused in words that nobody here understands: then longer, too.
        """
        with self._lock:
            known = self._down.get(id(outage))
            if known is None or known() is not outage:
                self._down[id(outage)] = weakref.ref(outage)
            soon = now + SPACING * random.uniform(0.9, 1.0)
            if answered or (now - since < SPACING and not unclear):
                self._pause = 0.0
                self._next_at = max(self._next_at, soon)
                return
            self._pause = min(max(2 * self._pause, SPACING), SLOWEST)
            self._next_at = max(soon, since + self._pause * random.uniform(0.75, 1.0))

    def leave(self, outage: Down) -> None:
        """Leave the turns of those that are down."""
        with self._lock:
            self._down.pop(id(outage), None)

    def answered(self, outage: Down) -> list[Down]:
        """It takes connections again. Return the other pools that are down: they may try now."""
        with self._lock:
            self._pause = self._next_at = 0.0
            self._started.clear()
            self.leave(outage)
            return [other for ref in self._down.values() if (other := ref()) is not None]


_servers: weakref.WeakValueDictionary[Any, Server] = weakref.WeakValueDictionary()
_servers_lock = threading.RLock()  # guards `_servers`


def server_at(address: Any) -> Server:
    mine = Server()
    with _servers_lock:
        return _servers.setdefault(address, mine)


def forget_servers() -> None:
    """Start anew in a forked child, where the old locks may be held for ever."""
    global _servers_lock
    _servers_lock = threading.RLock()
    _servers.clear()


process.on_child(forget_servers)
