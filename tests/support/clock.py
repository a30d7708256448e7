"""A clock that moves only when it is told to, in place of the one that the pool reads."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from tests.support import inside

__all__ = ["FakeClock"]


class FakeClock:
    """Monotonic time for all modules of `dbpool`; sleeping puts it on."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.0)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it wherever the package has looked up the real one, under whichever name."""
        instead = {
            id(time): SimpleNamespace(sleep=self.sleep),
            id(inside.monotonic): self.monotonic,
            id(time.sleep): self.sleep,
        }
        for name, module in list(sys.modules.items()):
            if name == "dbpool" or name.startswith("dbpool."):
                for attribute, value in list(vars(module).items()):
                    if id(value) in instead:
                        monkeypatch.setattr(module, attribute, instead[id(value)])
