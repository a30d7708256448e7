"""Who does what a pool does by itself: threads, or its callers (`background=False`)."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from .scheduler import Task, keeper
from .time_limit import Bounded, TimeLimit

__all__ = ["Background", "InCaller", "Runner"]


class Runner(Protocol):
    """The door of both."""

    threads: bool  # whether there may be any
    refused: bool  # whether the last thread that was wanted could not be started

    @property
    def lost(self) -> Callable[[Any], object] | None:
        """What a finaliser calls with an entry whose connection was dropped."""

    @property
    def overdue(self) -> bool:
        """Whether the task has been woken and has not run yet."""

    def serve(self, task: Task) -> None:
        """Wake this task from now on; it is not kept alive."""

    def wake(self, when: float) -> bool:
        """Have the task run at `when` (monotonic) or sooner. False where nobody can."""

    def limit(self, driver: Bounded, conn: Any, seconds: float) -> TimeLimit:
        """Return a context manager that bounds what is done on a connection."""


class Background:
    """The scheduler wakes the task, and ends what takes too long."""

    threads = True

    def __init__(self) -> None:
        self.refused = False
        self._task: Callable[[], Task | None] = lambda: None

    @property
    def lost(self) -> Callable[[Any], object] | None:
        return keeper.inbox.put

    @property
    def overdue(self) -> bool:
        task = self._task()
        return task is not None and task.due <= 0.0

    def serve(self, task: Task) -> None:
        self._task = weakref.ref(task)

    def wake(self, when: float) -> bool:
        task = self._task()
        return task is not None and keeper.schedule(task, when)

    def limit(self, driver: Bounded, conn: Any, seconds: float) -> TimeLimit:
        return TimeLimit(driver, conn, seconds)


class InCaller:
    """Callers do what is due when they come by; the kernel's own timeouts end what hangs."""

    threads = False
    refused = False
    lost = None
    overdue = False

    def serve(self, task: Task) -> None:
        pass

    def wake(self, when: float) -> bool:
        return False

    def limit(self, driver: Bounded, conn: Any, seconds: float) -> TimeLimit:
        return TimeLimit(driver, conn, seconds, watched=False)
