"""Raise an exception at every point of some code at which CPython may deliver one.

CPython delivers asynchronous exceptions (signals, PyThreadState_SetAsyncExc) at three kinds of
points only: when a function starts or a generator resumes, after a call, and at a backward jump.
`explore` numbers them as they execute in the files under test, runs a scenario once for each of
them, or for one in so many, and raises there.
"""

from __future__ import annotations

import dis
import gc
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

import pytest

__all__ = ["POINTS", "Injected", "explore", "quiet_collector"]

# For a test's argument `every`: `make test` takes one point in seven, others each time.
POINTS = [
    pytest.param(7, id="one point in seven"),
    pytest.param(1, id="each point", marks=pytest.mark.exhaustive),
]


class Injected(BaseException):
    """The exception that comes out of nowhere."""


# After one of these instructions the eval breaker is looked at, whatever the version calls them.
_CALLS = ("CALL",)
_STARTS = ("RESUME", "GEN_START")
_BACK = ("JUMP_BACKWARD", "JUMP_ABSOLUTE", "POP_JUMP_BACKWARD")


def _check_points(code: CodeType) -> frozenset[int]:
    """Return the offsets before which an exception may be delivered."""
    instructions = list(dis.get_instructions(code))
    handler = _handlers(code)
    found = {instructions[0].offset} if sys.version_info < (3, 11) else set()
    for this, following in pairwise(instructions):
        name = this.opname
        if name.startswith(_CALLS) and "INTRINSIC" not in name:
            # CPython looks for the handler of the call itself. Where the next instruction has
            # another one (the call was the last of its try or with block) it cannot stand in.
            if handler(this.offset) == handler(following.offset):
                found.add(following.offset)
        elif name in _STARTS:
            found.add(following.offset)
        elif name.startswith(_BACK) and this.argval <= this.offset:
            found.add(this.argval)
    return frozenset(found)


def _handlers(code: CodeType) -> Callable[[int], int | None]:
    """Return a function that gives the exception handler of the instruction at an offset."""
    parse = getattr(dis, "_parse_exception_table", None)
    if parse is None:  # before 3.11 a stack of blocks decides at run time, correctly by itself
        return lambda offset: None
    table = parse(code)

    def handler(offset: int) -> int | None:
        return next((row.target for row in table if row.start <= offset < row.end), None)

    return handler


_cache: dict[CodeType, frozenset[int]] = {}


def _raise(where: str) -> None:
    raise Injected(where)


class _Tracer:
    """Counts the points that execute in this thread, and raises, or acts, at the wanted one."""

    def __init__(
        self,
        prefix: str,
        at: int,
        act: Callable[[str], object] = _raise,
        exclude: tuple[str, ...] = (),
    ) -> None:
        self.prefix, self.at, self.act, self.exclude = prefix, at, act, exclude
        self.seen = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if event == "call":
            if not code.co_filename.startswith(self.prefix) or code.co_name in self.exclude:
                return None
            frame.f_trace = self  # 3.13 reports opcodes only of frames that have it already
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            if code not in _cache:
                _cache[code] = _check_points(code)
            return self
        if event == "opcode" and frame.f_lasti in _cache[code]:
            self.seen += 1
            if self.seen == self.at:
                self.where = f"{code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}"
                self.where += f":{frame.f_lineno} of {code.co_filename.rsplit('/', 1)[-1]}"
                self.act(self.where)
        return self


def explore(
    prefix: str,
    scenario: Callable[[Callable[[Callable[[], object]], None]], Callable[[str], None]],
    most: int = 5000,
    act: Callable[[str], object] = _raise,
    every: int = 1,
) -> int:
    """Run `scenario` with an exception at the first point, the second, … until none is left.

    With `every` it goes on by so many, from one that is drawn and printed.

    Arguments: `prefix`, the path that the files under test start with; `scenario(run)` sets the
    scene, calls `run(function)` once for what is to be interrupted, and returns a check, which is
    called with a description of the point; `act(where)`, what happens there instead of an
    exception: what a signal handler would do.
    Returns how many points there were.
    """
    first = random.randint(1, every)
    print(f"the points {first}, {first + every}, {first + 2 * every}, ...")
    for at in range(first, most, every):
        tracer = _Tracer(prefix, at, act)

        def run(function: Callable[[], object], tracer: _Tracer = tracer) -> None:
            # From 3.12 on opcodes are only reported once a frame that wants them is there.
            sys._getframe().f_trace_opcodes = True
            sys.settrace(tracer)
            try:
                function()
            except Injected:
                pass
            finally:
                sys.settrace(None)

        check = scenario(run)
        try:
            check(f"point {at}, {tracer.where}")
        except Exception as error:
            raise AssertionError(f"exception at point {at}, {tracer.where}: {error}") from error
        if tracer.seen < at:
            return tracer.seen
    raise AssertionError(f"more than {most} points: does the scenario loop?")


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep automatic collections out: they would add points that come and go.

    What there is now is looked at no more: the checks collect after every point.
    """
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.enable()
