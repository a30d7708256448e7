"""The scenarios, and the marks that the pool should reach in each."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from tests.outages import network, stages
from tests.outages.crowd import Crowd, NotStarted
from tests.outages.figures import Figures, Times, figures
from tests.outages.idle import restarted_while_idle
from tests.outages.load import STATEMENT
from tests.outages.stages import Stage
from tests.support.pgbouncer import find_pgbouncer

__all__ = ["SCENARIOS", "Idle", "Mark", "Result", "Scenario", "unproved"]

SETTLE = 1.0  # seconds until the crowd has its connections and works evenly
WARM = 2.0  # seconds in which its throughput is measured: some thousand calls
AFTER = 4.0  # seconds to look at what comes after the heal: four times what a recovery may take
BRIEFLY = 2.0  # the same where nobody asks when all of the throughput is back


@dataclass(frozen=True)
class Result:
    """What one run showed."""

    figures: Figures | None  # what the crowd saw; None where there was none
    measured: dict[str, float]  # what only the stage could see
    unproved: str = ""  # why the run says nothing, whatever its figures


@dataclass(frozen=True)
class Mark:
    """A figure of a result, and the most that it may be; None is worse than any number."""

    title: str
    figure: str  # its name in Figures, or in what only the stage could measure
    most: float
    needed: bool = True  # whether it is missed where it never came to be

    def value(self, result: Result) -> float | None:
        """Return what the run showed; None if it never came to be."""
        if self.figure in result.measured:
            return result.measured[self.figure]
        found: float | None = getattr(result.figures, self.figure, None)
        return found

    def met(self, value: float | None) -> bool:
        return not self.needed if value is None else value <= self.most


WRONG = Mark("wrong tokens", "wrong", 0)
LOST = Mark("slots lost", "lost", 0)
LATE = Mark("errors after heal", "late", 0)
OTHERS = Mark("errors, not in flight", "others", 0)
REFUSED = Mark("refused", "refused", 0)
IN_FLIGHT = Mark("errors in flight", "in_flight", 0)
DOWN = Mark("PoolDown after, s", "down_wait", 1.05, needed=False)
FIRST = Mark("first success, s", "first_success", 0.3)
BACK = Mark("95 % again, s", "recovered", 1.0)
ATTEMPTS = Mark("connects/s/process", "attempts", 3.0)
# What is held is cut off soon after max_use, also where no cancel is answered.
SLOWEST = Mark("slowest call, s", "slowest", STATEMENT + 0.3)
OVERRUN = Mark("beyond deadline, s", "overrun", 0.25)
GAP = Mark("heartbeat gap, s", "gap", 0.05)
WRITES = Mark("writes good, s", "first_success", 1.0)
READ_ONLY_ERRORS = Mark("read-only errors/pool", "read_only", 1)
CHURN = Mark("connections renewed", "churn", 0.1)
GROWN = Mark("grown again, s", "grown", 60.0)
FAILED = Mark("errors", "failed", 0)
CONNECTS = Mark("slowest call, in connects", "connects", 2.0)

_STOPPED = (OVERRUN, OTHERS, DOWN, FIRST, BACK, LATE, LOST, ATTEMPTS, WRONG)
_SILENT = (OVERRUN, GAP, BACK, LATE, LOST, WRONG)


@dataclass(frozen=True)
class Scenario:
    """What happens, for how many seconds, and what should come of it."""

    name: str
    stage: Callable[[ExitStack], Stage]
    seconds: float
    marks: tuple[Mark, ...]
    lacks: Callable[[], str | None] = lambda: None  # what this machine lacks for it

    @property
    def after(self) -> float:
        """Seconds to look at what comes after the heal."""
        return AFTER if BACK in self.marks else BRIEFLY

    @property
    def about(self) -> str:
        """What happens, in a sentence."""
        return (self.stage.__doc__ or "").splitlines()[0]

    def run(self, pool: str, *, seconds: float | None = None) -> Result:
        """Play it once with pools of that kind, with the fault that long instead of its own."""
        with ExitStack() as stack:
            stage = self.stage(stack)
            crowd = Crowd(pool, stage.dsn, inside=stage.inside, write=stage.write)
            try:
                stack.enter_context(crowd)
            except NotStarted as error:
                return Result(None, {}, str(error))
            time.sleep(SETTLE)
            warm = time.monotonic_ns()
            time.sleep(WARM)
            fault = time.monotonic_ns()
            stage.fault(crowd)
            faulted = time.monotonic_ns()
            time.sleep(self.seconds if seconds is None else seconds)
            stage.heal(crowd)
            heal = time.monotonic_ns()
            time.sleep(self.after)
            end = time.monotonic_ns()
            seen = crowd.finish()
        found = figures(seen, Times(warm, fault, faulted, heal, end))
        return Result(found, stage.measured, unproved(found, stage.bit))


def unproved(found: Figures, bit: bool | None) -> str:
    """Return why a run says nothing about the pool, "" if it does.

    Arguments: `bit`, whether the stage saw the fault hit the crowd, None where the calls show it.
    """
    if not found.calls:
        return "no call went well before the fault"
    return "" if (found.felt if bit is None else bit) else "the fault did not show"


@dataclass(frozen=True)
class Idle:
    """A scenario without a crowd: a function makes the calls, and measures."""

    name: str
    script: Callable[[str], tuple[dict[str, float], str]]  # also why it says nothing, or ""
    marks: tuple[Mark, ...]
    lacks: Callable[[], str | None] = lambda: None
    after = 0.0

    @property
    def about(self) -> str:
        """What happens, in a sentence."""
        return (self.script.__doc__ or "").splitlines()[0]

    def run(self, pool: str, *, seconds: float | None = None) -> Result:
        """Play it once with a pool of that kind."""
        return Result(None, *self.script(pool))


def _no_pgbouncer() -> str | None:
    return None if find_pgbouncer() else "the program pgbouncer is not installed"


SCENARIOS: tuple[Scenario | Idle, ...] = (
    Scenario("stop fast", stages.stop_fast, 10, _STOPPED),
    Scenario("stop immediate", stages.stop_immediate, 10, _STOPPED),
    Scenario("postmaster killed", stages.kill_postmaster, 5, _STOPPED),
    Scenario("restart", stages.restart, 0, tuple(one for one in _STOPPED if one is not FIRST)),
    Idle("restart while idle", restarted_while_idle, (FAILED, CONNECTS)),
    Scenario("backend killed", stages.kill_backend, 1, (OTHERS, REFUSED, LATE, LOST, WRONG)),
    Scenario("session terminated", stages.terminate, 1, (OTHERS, REFUSED, LATE, LOST, WRONG)),
    Scenario("server frozen", stages.freeze, 20, (SLOWEST, *_SILENT)),
    Scenario("packets dropped", stages.drop, 20, _SILENT, lacks=network.missing),
    Scenario("packets rejected", stages.reject, 5, _STOPPED, lacks=network.missing),
    Scenario("promotion", stages.promotion, 1, (WRITES, READ_ONLY_ERRORS, LATE, LOST, WRONG)),
    Scenario("demotion", stages.demotion, 5, (READ_ONLY_ERRORS, WRITES, LATE, LOST, WRONG)),
    Scenario("too many sessions", stages.too_many, 5, (IN_FLIGHT, OTHERS, REFUSED, GROWN, WRONG)),
    Scenario("restart under pause", stages.paused, 1, (IN_FLIGHT, OTHERS, REFUSED, LOST, WRONG)),
    Scenario(
        "restart behind PgBouncer's PAUSE",
        stages.pooler_paused,
        1,
        (IN_FLIGHT, OTHERS, REFUSED, LATE, LOST, WRONG),
        lacks=_no_pgbouncer,
    ),
    Scenario("connections reset", stages.resets, 1, (OTHERS, REFUSED, LATE, LOST, WRONG)),
    Scenario("half open", stages.half_open, 2, (OTHERS, LATE, LOST, WRONG)),
    Scenario("answer cut short", stages.cut_short, 1, (OTHERS, LATE, LOST, WRONG)),
    Scenario("black hole", stages.black_hole, 6, (OVERRUN, GAP, LATE, LOST, WRONG)),
    Scenario("slow accept", stages.slow_accept, 3, (OTHERS, REFUSED, LATE, LOST, WRONG)),
    Scenario(
        "200 ms and 5 % loss",
        stages.grey,
        20,
        (REFUSED, CHURN, LATE, LOST, WRONG),
        lacks=network.missing,
    ),
)
