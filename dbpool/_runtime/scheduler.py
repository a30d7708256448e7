"""The one background thread of a process: it watches the clock for every pool.

It does two things and neither can block: it calls `upkeep` of pools when that is due, and it
severs connections whose operation has passed its deadline. Connects, which can block in name
resolution, run in short-lived threads of their own. No pool needs the keeper to be correct.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from . import process, threads
from .clock import monotonic

__all__ = ["Keeper", "Limit", "Task", "keeper"]

logger = logging.getLogger("dbpool.keeper")


_STARVED = 1.0  # seconds late that are worth a word
_STARTING = 1.0  # seconds after which a thread that has not started never will: see start


class Task(Protocol):
    """What the keeper looks after: a pool, or the spare connection of a pool's health check."""

    name: str
    due: float

    def run(self, now: float) -> float:
        """Do what is due, without blocking; return when to come back."""


class Dropped(Protocol):
    """What a finaliser leaves: an entry whose connection was dropped."""

    @property
    def home(self) -> Callable[[], Any]:
        """Return a reference to what finds it, by `find_lost`; None once that is gone."""


class Limit(Protocol):
    """What the keeper ends when its time has come."""

    deadline: float

    def fire(self) -> None:
        """Cut off what runs; called under the lock that disarming takes."""


class Keeper:
    """Holds only weak references to pools; its thread starts on first need, ends with them."""

    def __init__(self) -> None:
        self.pools: dict[int, weakref.ref[Task]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything that belonged to a parent process or must not exist at import."""
        # Guards `_thread`, and a guard's life against the moment in which its socket is severed.
        # Re-entrant: a signal handler may need the keeper wherever it comes in.
        self._lock = threading.RLock()
        self._starting_until = -math.inf
        self._thread: threading.Thread | None = None
        self._inbox: queue.SimpleQueue[Dropped | None] | None = None
        # Weak, since an exception may strike between arming and disarming: a guard lives only as
        # long as the frame whose operation it bounds.
        self._guards: dict[int, weakref.ref[Limit]] = {}
        self._wake_at = math.inf
        self.lag = 0.0

    @property
    def inbox(self) -> queue.SimpleQueue[Dropped | None]:
        """What wakes the keeper: an entry whose connection was dropped, or None.

        A finaliser may put at any point. Nothing is lost with an item: it only says where to look.
        """
        # Made on first use: a monkey-patch that comes after the import must find its own class.
        inbox = self._inbox
        if inbox is None:
            with self._lock:
                inbox = self._inbox = self._inbox or queue.SimpleQueue()
        return inbox

    # -- pools

    def register(self, pool: Task) -> None:
        """Know a pool from now on; without starting anything.

        Nor is the inbox made here: this runs in forked children, too, and gunicorn's gevent worker
        is patched only after that. An inbox of before would stop every greenlet of the process.
        """
        key = id(pool)
        pools = self.pools

        def gone(_: object) -> None:
            pools.pop(key, None)
            if self._inbox is not None:
                self._inbox.put(None)  # the keeper ends with the last one

        pools[key] = weakref.ref(pool, gone)

    def forget(self, pool: Task) -> None:
        """A pool is closed: nothing is due for it any more."""
        self.pools.pop(id(pool), None)
        if self._inbox is not None:
            self._inbox.put(None)

    def schedule(self, pool: Task, when: float) -> bool:
        """Call the pool's upkeep at `when` (monotonic), or sooner; starts the thread.

        False where no thread can be started.
        """
        pool.due = min(pool.due, when)
        if when < self._wake_at:
            if not self.start():
                return False
            self.inbox.put(None)
        return True

    def start(self) -> bool:
        """Have the thread running. False where no thread can be started."""
        # Whoever was starting it may have been interrupted at any point: what is not alive after
        # a while is replaced. Two of them at once would do no harm.
        known = self._thread
        if known is not None and (known.is_alive() or monotonic() < self._starting_until):
            return True
        thread = threads.Thread(self._run, (), "dbpool-keeper")
        with self._lock:
            first = self._thread is known
            if first:
                self._starting_until = monotonic() + _STARTING
                self._thread = thread
        if not first:
            return True
        try:
            threads.start(thread)
        except BaseException as error:
            if not thread.is_alive():
                self._thread = None
            if isinstance(error, RuntimeError):  # no more threads, or the interpreter is ending
                return False
            raise
        return True

    # -- deadlines

    def arm(self, guard: Limit) -> bool:
        """Sever the guard's connection at its deadline. False where no thread can watch it."""
        self._guards[id(guard)] = weakref.ref(guard)
        if not self.start():
            self.disarm(guard)
            return False
        if guard.deadline < self._wake_at:
            self.inbox.put(None)
        return True

    def disarm(self, guard: Limit) -> None:
        """After this returns the guard's socket is not touched any more."""
        with self._lock:
            self._guards.pop(id(guard), None)

    # -- the thread

    def _run(self) -> None:
        try:
            self._watch()
        finally:  # however it ended: whoever needs it next starts another
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None
                self._wake_at = math.inf
            self.inbox.put(None)  # for a second one, started where a start was interrupted

    def _watch(self) -> None:
        inbox = self.inbox
        while True:
            # From here on whoever adds something due wakes the thread; see arm and schedule.
            self._wake_at = math.inf
            now = monotonic()
            due = min(self._sever_overdue(now), self._run_due(now))
            with self._lock:
                if not self.pools and not self._guards and inbox.empty():
                    if self._thread is threading.current_thread():
                        self._thread = None
                    return
            self._wake_at = due
            try:
                # An hour is a belt: a clock that jumps must not put the keeper to sleep for good.
                entry = inbox.get(timeout=min(max(due - monotonic(), 0.0), 3600.0))
            except queue.Empty:
                self.lag = lag = monotonic() - due
                if lag > _STARVED:
                    logger.warning(
                        "the keeper woke %.1f s late: threads of this process are starved", lag
                    )
                continue
            pool = None if entry is None else entry.home()
            if pool is not None:
                pool.find_lost()
            del entry, pool

    def _sever_overdue(self, now: float) -> float:
        """Cut what is past its deadline; return the next deadline."""
        due = math.inf
        for key, ref in list(self._guards.items()):
            guard = ref()
            if guard is None:
                self._guards.pop(key, None)
            elif guard.deadline > now:
                due = min(due, guard.deadline)
            else:
                with self._lock:  # the owner passes here, in disarm, before it closes the socket
                    if key in self._guards:
                        guard.fire()
                        if guard.deadline > now:
                            due = min(due, guard.deadline)
                        else:
                            self._guards.pop(key, None)
        return due

    def _run_due(self, now: float) -> float:
        """Look after the pools whose time has come; return when the next one is due."""
        due = math.inf
        for ref in list(self.pools.values()):
            pool = ref()
            if pool is None:
                continue
            if pool.due <= now:
                pool.due = math.inf
                try:
                    pool.due = min(pool.due, pool.run(now))
                except Exception:
                    logger.exception("upkeep of pool %r failed; it goes on in 10 s", pool.name)
                    pool.due = now + 10.0
            due = min(due, pool.due)
        return due


keeper = Keeper()
process.on_child(keeper.reset)
