"""Run every interleaving of a few threads, up to a number of preemptions.

Real threads pass one baton, so exactly one runs. Before each modelled operation (a lock, a deque
or a dict that the pool works without a lock) the scheduler chooses who goes on; a depth-first
search tries all choices in which a thread that could have gone on is preempted at most `bound`
times. Nearly all bugs show with two. With `lines` each line of the files whose path starts so is a
switch point as well, which finds what the models do not show, at many times the runs.

A wait with a timeout may end at any moment: running such a thread before it was woken is its
timeout, and the clock is put on by as much. A wait without one that nobody can end any more is a
Deadlock: a lost wake-up. A failure is a Violation with the schedule that reproduces it.
"""

from __future__ import annotations

import collections
import gc
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

__all__ = [
    "Clock",
    "Deadlock",
    "Lock",
    "RLock",
    "Violation",
    "deque",
    "explore",
    "mapping",
    "point",
    "switching",
    "who",
]

Worker = Callable[[], object]
Scenario = Callable[[], tuple[Sequence[Worker], Callable[[], object]]]
FOREVER = 1e6  # seconds; a longer wait has no timeout


class Deadlock(AssertionError):
    """Some threads are blocked and nobody is left to wake them."""


class Violation(AssertionError):
    """An interleaving failed; `runs` says how many were tried before."""

    def __init__(self, error: BaseException, schedule: list[int], runs: int, trace: list[Any]):
        steps = " ".join(f"{who}:{what}" for who, what in trace[-30:])
        super().__init__(
            f"{type(error).__name__}: {error}\n  run {runs}, schedule {schedule}\n  last: {steps}"
        )
        self.schedule, self.runs = schedule, runs


class _Abort(BaseException):
    """Unwinds the threads of a run that is over."""


class _Baton:
    """A lock that is taken at birth: the cheapest thing for one thread to wait for another by."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.wait = self._lock.acquire
        self.give = self._lock.release
        self.wait()


class _Hand:
    """A thread that does one task after another: to start one for each would cost more than it."""

    def __init__(self) -> None:
        self._wanted, self._done = _Baton(), _Baton()
        self._work: Worker | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def begin(self, work: Worker | None) -> None:
        self._work = work
        self._wanted.give()

    def join(self) -> None:
        """Wait until what was begun is done."""
        self._done.wait()

    def dismiss(self) -> None:
        self.begin(None)
        self._thread.join()

    def _serve(self) -> None:
        while True:
            self._wanted.wait()
            work, self._work = self._work, None
            if work is None:
                return
            work()
            del work  # and with it what the scene has in it
            self._done.give()


class _Task:
    def __init__(self, function: Worker, name: str) -> None:
        self.function, self.name = function, name
        self.baton = _Baton()
        self.ready: Callable[[], bool] | None = None
        self.timed = self.done = False
        self.error: BaseException | None = None

    def can_run(self) -> bool:
        return not self.done and (self.ready is None or self.timed or self.ready())


class _Run:
    """One interleaving: follows `prefix`, then always takes the first choice."""

    def __init__(self, prefix: list[int], bound: int, max_steps: int, lines: str) -> None:
        self.prefix, self.bound, self.max_steps, self.lines = prefix, bound, max_steps, lines
        self.choices: list[tuple[int, int]] = []  # (taken, how many there were)
        self.trace: list[tuple[str, str]] = []
        self.tasks: list[_Task] = []
        self.current: _Task | None = None
        self.preemptions = 0
        self.over = False
        self.finished = _Baton()

    def _choose(self) -> _Task | None:
        options = [task for task in self.tasks if task.can_run()]
        if not options:
            return None
        me = self.current
        going_on = me in options
        if me is not None and going_on:  # first choice: no switch
            options.remove(me)
            options.insert(0, me)
            if self.preemptions >= self.bound:
                options = options[:1]
        step = len(self.choices)
        taken = self.prefix[step] if step < len(self.prefix) else 0
        if taken >= len(options):
            raise AssertionError("the scenario is not the same each time it runs")
        self.choices.append((taken, len(options)))
        self.preemptions += bool(taken and going_on)
        return options[taken]

    def _pass_to(self, task: _Task | None) -> None:
        if task is None:
            self.finished.give()
        else:
            self.current = task
            task.baton.give()

    def switch(self, what: str) -> None:
        """Let the scheduler choose who runs next; called by the running thread."""
        me = self.current
        assert me is not None
        self.trace.append((me.name, what))
        if len(self.trace) > self.max_steps:
            raise AssertionError(f"more than {self.max_steps} steps: a loop without an end?")
        chosen = self._choose()
        if chosen is not me:
            self._pass_to(chosen)
            me.baton.wait()
        if self.over:
            raise _Abort

    def block(self, ready: Callable[[], bool], timed: bool, what: str) -> bool:
        """Block until ready() holds; False if the timeout came first."""
        me = self.current
        assert me is not None
        me.ready, me.timed = ready, timed
        self.switch(what)
        woken = ready()
        me.ready, me.timed = None, False
        return woken

    def _body(self, task: _Task) -> None:
        task.baton.wait()
        try:
            if self.lines:
                sys.settrace(self._trace)
            if not self.over:
                task.function()
        except _Abort:
            pass
        except BaseException as error:  # noqa: BLE001 - it fails the run
            task.error = error
        finally:
            sys.settrace(None)
        task.done = True
        if not self.over:
            try:
                following = self._choose()
            except AssertionError as error:
                task.error, following = error, None
            self._pass_to(following)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(self.lines):
            return None
        if event == "line" and not self.over:
            self.switch(f"{frame.f_code.co_name}:{frame.f_lineno}")
        return self._trace

    def execute(self, functions: Sequence[Worker], hands: list[_Hand]) -> None:
        self.tasks = [_Task(function, f"T{i}") for i, function in enumerate(functions)]
        while len(hands) < len(self.tasks):
            hands.append(_Hand())
        busy = hands[: len(self.tasks)]
        for hand, task in zip(busy, self.tasks, strict=True):
            hand.begin(partial(self._body, task))
        self._pass_to(self._choose())
        self.finished.wait()
        stuck = [task.name for task in self.tasks if not task.done]
        self.over = True
        for task in self.tasks:
            task.baton.give()
        for hand in busy:
            hand.join()
        for task in self.tasks:
            if task.error:
                raise task.error
        if stuck:
            raise Deadlock(f"blocked for ever: {', '.join(stuck)}")


_run: _Run | None = None


def point(what: str) -> None:
    """A switch point; nothing outside a run."""
    if _run is not None and _run.current is not None and not _run.over:
        _run.switch(what)


def who() -> str:
    """The name of the thread that runs."""
    return _run.current.name if _run is not None and _run.current is not None else ""


class Clock:
    """A clock that stands still, but for the timeouts of waits."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


class Lock:
    """Model of threading.Lock; `clock` is put on by a wait that times out."""

    clock: Clock | None = None

    def __init__(self) -> None:
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        point("lock.acquire")
        timed = 0 <= timeout < FOREVER
        while self._held:
            if not blocking:
                return False
            assert _run is not None, "blocked outside a run"
            if not _run.block(lambda: not self._held, timed, "lock.wait") and timed:
                if self.clock is not None:
                    self.clock.now += timeout
                return False
        self._held = True
        return True

    def release(self) -> None:
        point("lock.release")
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False


class RLock:
    """Model of threading.RLock."""

    def __init__(self) -> None:
        self._owner: object = None
        self._depth = 0

    def __enter__(self) -> None:
        me = _run.current if _run is not None else None
        if self._owner is None or self._owner is not me or me is None:
            point("rlock.acquire")
            while self._depth and self._owner is not me:
                assert _run is not None, "blocked outside a run"
                _run.block(lambda: not self._depth, False, "rlock.wait")
        self._owner = me
        self._depth += 1

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            point("rlock.release")


class deque(collections.deque[Any]):
    """collections.deque with a switch point before each operation, which itself is atomic."""


def switching(base: type, names: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Return methods of `base` with a switch point before each."""

    def stepwise(name: str) -> Callable[..., Any]:
        original = getattr(base, name)

        def operation(self: Any, *args: Any) -> Any:
            point(f"{base.__name__}.{name.strip('_')}")
            return original(self, *args)

        return operation

    return {name: stepwise(name) for name in names}


_DEQUE = ("append", "appendleft", "pop", "popleft", "remove", "__len__", "__getitem__")
for _name, _method in switching(collections.deque, _DEQUE).items():
    setattr(deque, _name, _method)


class mapping(dict[Any, Any]):
    """dict with a switch point before each operation, which itself is atomic."""


_DICT = ("__getitem__", "__setitem__", "__len__", "get", "pop", "setdefault", "values")
for _name, _method in switching(dict, _DICT).items():
    setattr(mapping, _name, _method)


def _once(scenario: Scenario, run: _Run, runs: int, hands: list[_Hand]) -> None:
    global _run
    functions, check = scenario()
    _run = run
    try:
        try:
            run.execute(functions, hands)
        finally:
            _run = None
        check()
    except Exception as error:
        raise Violation(error, [taken for taken, _ in run.choices], runs, run.trace) from error


def explore(
    scenario: Scenario,
    bound: int = 2,
    max_runs: int = 100_000,
    max_steps: int = 5_000,
    lines: str = "",
) -> int:
    """Return how many interleavings there were; raise Violation for one that fails."""
    hands: list[_Hand] = []
    collecting = gc.isenabled()
    gc.disable()  # a collection comes when it likes, and what it finds may call into the pool
    try:
        new_run = partial(_Run, bound=bound, max_steps=max_steps, lines=lines)
        return _search(scenario, new_run, max_runs, hands)
    finally:
        for hand in hands:
            hand.dismiss()
        if collecting:
            gc.enable()


def _search(
    scenario: Scenario, new_run: Callable[[list[int]], _Run], max_runs: int, hands: list[_Hand]
) -> int:
    prefix: list[int] = []
    _once(scenario, new_run(prefix), 0, hands)  # what is done once in a process is not in the way
    for runs in range(1, max_runs + 1):
        if runs % 500 == 0:
            gc.collect()
        run = new_run(prefix)
        _once(scenario, run, runs, hands)
        choices = run.choices
        while choices and choices[-1][0] + 1 >= choices[-1][1]:
            choices.pop()  # this choice has no more alternatives
        if not choices:
            return runs
        prefix = [taken for taken, _ in choices[:-1]] + [choices[-1][0] + 1]
    raise AssertionError(f"more than {max_runs} interleavings: make the scenario smaller")
