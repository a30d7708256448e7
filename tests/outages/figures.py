"""What a crowd's notes amount to: first error, longest wait, errors, connects, recovery, losses."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

from tests.outages.crowd import SIZE
from tests.outages.load import ACQUIRE, STATEMENT
from tests.outages.seen import Seen

__all__ = ["Figures", "Times", "figures"]

DEADLINE = ACQUIRE + STATEMENT  # seconds a caller gives a call, from its beginning to its end
WINDOW = 0.25  # seconds over which throughput is taken
READ_ONLY = ("ReadOnlySqlTransaction", "InternalError")  # the latter is SQLAlchemy's name for it
SLICE = 3.0  # seconds over which connects are counted: at most 3 a second may be 9 in here


@dataclass(frozen=True)
class Times:
    """When what happened: nanoseconds of the machine's monotonic clock."""

    warm: int  # from here on the crowd's throughput is what it should be
    fault: int  # the fault was begun
    faulted: int  # and was complete: later calls are none that were in flight
    heal: int  # the fault is over: the server accepts again
    end: int


@dataclass(frozen=True)
class Figures:
    """One run of one scenario; seconds, and None where a thing never happened."""

    calls: int  # that went well between warm and the fault; with none the rest says nothing
    felt: bool  # whether the fault shows: an error, a connect, or half of the throughput gone
    first_error: float | None  # after the fault
    slowest: float  # longest call
    overrun: float  # the same, beyond its deadline
    down_wait: float | None  # longest call that ended with PoolDown
    in_flight: int  # errors of calls that had begun before the fault was complete
    refused: int  # PoolDown, during the fault and until the first success after it
    others: int  # any other error meanwhile: nobody in flight, nobody told that it is down
    per_thread: float  # errors per thread between the fault and the end
    attempts: float  # connects per second and process while down, of the worst process
    churn: float  # connects during the fault, in proportion to the connections there are
    first_success: float | None  # after the heal
    recovered: float | None  # after the heal, until 95 % of the throughput before
    late: int | None  # errors of calls begun after the first success
    lost: int  # connections of the capacity that could not be had at the end
    wrong: int  # answers that were another call's
    gap: float  # longest heartbeat gap during the fault
    gap_before: float  # the same before it: what the machine does by itself
    read_only: float  # of the worst pool: errors of calls begun after its first one, and that
    kinds: Counter[str]  # errors by class


@dataclass(frozen=True)
class _Call:
    started: int
    ended: int
    outcome: str

    @property
    def failed(self) -> bool:
        return self.outcome not in ("ok", "wrong token")


def figures(seen: list[Seen], times: Times) -> Figures:
    """Reduce what all processes saw in one run."""
    calls = [call for process in seen for call in _calls(process, times.end)]
    good = sorted(call.ended for call in calls if call.outcome == "ok")
    failed = [call for call in calls if call.failed and call.ended >= times.fault]
    healed = bisect_left(good, times.heal)
    first_success = good[healed] if healed < len(good) else None
    late_from = times.end if first_success is None else first_success
    during = [call for call in failed if call.started <= late_from]
    fresh = [call for call in during if call.started > times.faulted]
    before = bisect_left(good, times.fault) - bisect_left(good, times.warm)
    connects = [at for process in seen for at in process.connects if at >= times.fault]
    longest = max(
        (call.ended - call.started for call in calls if call.ended >= times.fault), default=0
    )
    return Figures(
        calls=before,
        felt=bool(failed or connects) or _dips(good, times),
        first_error=_seconds(min((call.ended for call in failed), default=None), times.fault),
        slowest=longest / 1e9,
        overrun=longest / 1e9 - DEADLINE,
        down_wait=_seconds(
            max(
                (call.ended - call.started for call in failed if call.outcome == "PoolDown"),
                default=None,
            ),
            0,
        ),
        in_flight=len(during) - len(fresh),
        refused=sum(call.outcome == "PoolDown" for call in fresh),
        others=sum(call.outcome != "PoolDown" for call in fresh),
        per_thread=len(failed) / sum(len(process.calls) for process in seen),
        attempts=max(_attempts(process.connects, times) for process in seen),
        churn=sum(at < times.heal for at in connects) / (SIZE * len(seen)),
        first_success=_seconds(first_success, times.heal),
        recovered=_recovered(good, times),
        late=None if first_success is None else sum(call.started > late_from for call in failed),
        lost=sum(SIZE - process.capacity for process in seen),
        wrong=sum(call.outcome == "wrong token" for call in calls),
        gap=_gap(seen, times.fault, times.heal),
        gap_before=_gap(seen, times.warm, times.fault),
        read_only=max(_read_only(process, times) for process in seen),
        kinds=Counter(call.outcome for call in failed),
    )


def _calls(process: Seen, end: int) -> list[_Call]:
    rows = []
    for flat in process.calls:
        for at in range(0, len(flat), 3):
            rows.append(_Call(flat[at], flat[at + 1], process.outcomes[flat[at + 2]]))
    # One that never came to its end has waited until the end at least.
    return rows + [_Call(started, end, "hung") for started in process.hung]


def _seconds(moment: int | None, since: int) -> float | None:
    return None if moment is None else (moment - since) / 1e9


def _attempts(connects: list[int], times: Times) -> float:
    """Return the most connects per second in any SLICE of the outage, or in all of it if short."""
    begun = [moment for moment in connects if times.faulted <= moment < times.heal]
    length = (times.heal - times.faulted) / 1e9
    if length <= SLICE:
        return len(begun) / max(length, 1.0)
    ends = (bisect_left(begun, moment + int(SLICE * 1e9)) for moment in begun)
    return max((end - at for at, end in enumerate(ends)), default=0) / SLICE


def _rate(good: list[int], since: int, until: int) -> float:
    """Return how many calls went well in a second."""
    return (bisect_left(good, until) - bisect_left(good, since)) / ((until - since) / 1e9)


def _dips(good: list[int], times: Times) -> bool:
    """Return whether less than half of the throughput was left during the fault."""
    if times.heal <= times.faulted:
        return False
    during = _rate(good, times.faulted, times.heal)
    return during < _rate(good, times.warm, times.fault) / 2


def _recovered(good: list[int], times: Times) -> float | None:
    """Return when after the heal the throughput over a WINDOW was 95 % of what it was before."""
    wanted = max(1, int(0.95 * _rate(good, times.warm, times.fault) * WINDOW))
    start = bisect_left(good, times.heal)
    for first, last in zip(good[start:], good[start + wanted - 1 :], strict=False):
        if last - first <= WINDOW * 1e9:
            return (last - times.heal) / 1e9
    return None


def _read_only(process: Seen, times: Times) -> int:
    """Return how often a pool's callers met a server that takes no writes.

    Those that were in flight together count once: nobody could have told them. So do those that
    began before the fault was complete: a server's sessions change one after the other, and one
    that has yet to change answers a ping like any that is well.
    """
    met = [call for call in _calls(process, times.end) if call.outcome in READ_ONLY]
    first = max(min((call.ended for call in met), default=0), times.faulted)
    return sum(call.started > first for call in met) + bool(met)


def _gap(seen: list[Seen], since: int, until: int) -> float:
    gaps = [
        gap for process in seen for moment, gap in process.beats if since <= moment - gap < until
    ]
    return max(gaps, default=0) / 1e9
