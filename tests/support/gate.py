"""A gate before the connects of the stub driver: tests say when they go on."""

from __future__ import annotations

import threading

from tests.support.callers import PATIENCE
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

__all__ = ["Gate"]


class Gate:
    """Holds connects up, and counts those that are held; a connect that has begun is `inside`."""

    def __init__(self, stub: StubDriver) -> None:
        self._condition = threading.Condition()
        self._open = False
        self.inside = self.most = self.started = 0
        stub.hooks["connect"] = self._pass

    def _pass(self, _: object) -> None:
        with self._condition:
            self.started += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._condition.wait_for(lambda: self._open, PATIENCE)
            self.inside -= 1

    def wait(self, count: int = 1) -> None:
        """Return when so many connects are held."""
        wait_until(lambda: self.inside == count, PATIENCE, f"{count} connects under way")

    def open(self) -> None:
        """Let go those that are held, and all that come."""
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def shut(self) -> None:
        """Hold those up that come from now on."""
        with self._condition:
            self._open = False
