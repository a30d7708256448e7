"""The pools of an app close when the app goes, whoever else still holds them.

An app may be collected anywhere, under any lock. So its finaliser only asks; the keeper's thread
does it or, where none runs, the next app that is set up. At interpreter exit the core closes
every pool.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbpool._runtime.scheduler import keeper

if TYPE_CHECKING:
    from flask import Flask

    from dbpool import ConnectionPool

__all__ = ["close_with"]

_asked: deque[_Farewell] = deque()


def close_with(app: Flask, pools: Mapping[str, ConnectionPool]) -> None:
    """Have the pools closed soon after the app is gone."""
    _close_asked()
    farewell = _Farewell(app.name, pools)
    keeper.register(farewell)
    # It holds the farewell, and that the pools, for as long as the app lives.
    weakref.finalize(app, farewell.ask).atexit = False


class _Farewell:
    """What the keeper has to do once for an app that is gone."""

    def __init__(self, name: str, pools: Mapping[str, ConnectionPool]) -> None:
        self.name = name
        self._pools = pools
        self.due = math.inf

    def ask(self) -> None:
        """Run by the finaliser: nothing here takes a lock, waits or can fail."""
        _asked.append(self)
        self.due = 0.0
        inbox = keeper._inbox
        if inbox is not None:
            inbox.put(None)

    def run(self, now: float) -> float:
        _close_asked()
        return math.inf

    def close(self) -> None:
        """Close the pools; waits for nothing."""
        keeper.forget(self)
        for pool in self._pools.values():
            pool.close(timeout=0)


def _close_asked() -> None:
    while True:
        try:
            farewell = _asked.popleft()
        except IndexError:
            return
        farewell.close()
