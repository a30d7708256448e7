"""The rig's quick scenarios, with our pool only: what must hold however busy the machine is.

Times are marks of `make test-outages`; here only what is counted is asserted.
"""

from __future__ import annotations

from array import array

import pytest

from tests.outages import load
from tests.outages.figures import Times, figures
from tests.outages.load import capacity
from tests.outages.scenarios import SCENARIOS, unproved
from tests.outages.seen import Seen

COUNTED = {
    "others",
    "late",
    "lost",
    "wrong",
    "refused",
    "in_flight",
    "read_only",
}
QUICK = {
    "stop immediate": 2.0,
    "session terminated": 0.5,
    "demotion": 2.0,
    "restart under pause": 0.5,
    "restart behind PgBouncer's PAUSE": 0.5,
    "connections reset": 0.5,
}


TELLING = ("stop immediate",)


@pytest.mark.outage
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "name",
    [
        name if name in TELLING else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in QUICK
    ],
)
def test_nothing_is_lost_and_nobody_gets_anothers_answer(name: str) -> None:
    (scenario,) = (one for one in SCENARIOS if one.name == name)
    if lacking := scenario.lacks():
        pytest.skip(lacking)
    result = scenario.run("dbpool", seconds=QUICK[name])
    assert result.unproved == ""
    for mark in scenario.marks:
        if mark.figure in COUNTED:
            assert mark.met(mark.value(result)), (mark.title, result)


# The figures themselves, from notes that are made up


def seen(*calls: tuple[int, int, int], **other: object) -> Seen:
    flat = array(
        "q", [int(part * 1e9) if at < 2 else part for row in calls for at, part in enumerate(row)]
    )
    given = {"hung": [], "beats": [], "connects": [], "capacity": 4, **other}
    return Seen([flat], ["ok", "wrong token", "PoolDown", "OperationalError"], **given)  # type: ignore[arg-type]


TIMES = Times(*(int(moment * 1e9) for moment in (0, 10, 11, 20, 30)))
OK, WRONG, DOWN, BROKEN = range(4)


def test_a_call_in_flight_is_one_that_began_before_the_fault_was_complete() -> None:
    found = figures([seen((10, 12, BROKEN), (12, 13, DOWN), (12, 14, BROKEN), (21, 22, OK))], TIMES)
    assert (found.in_flight, found.refused, found.others) == (1, 1, 1)
    assert found.down_wait == 1.0
    assert found.first_error == 2.0
    assert found.first_success == 2.0
    assert found.per_thread == 3


def test_an_error_after_the_first_success_is_late() -> None:
    found = figures([seen((20, 21, OK), (20, 22, BROKEN), (21.5, 22, BROKEN))], TIMES)  # type: ignore[arg-type]
    assert (found.late, found.others) == (1, 1)


def test_what_hangs_has_waited_to_the_end() -> None:
    found = figures([seen((1, 2, OK), hung=[int(12e9)])], TIMES)
    assert found.overrun == 18.0 - 4.0
    assert found.first_success is None


def test_a_run_without_a_call_or_without_a_fault_proves_nothing() -> None:
    # Throughout 30 s, but for the fault from 11 to 20.
    before = [(moment / 10, moment / 10, OK) for moment in range(100)]
    during = [(11 + moment / 10, 11 + moment / 10, OK) for moment in range(90)]
    after = [(20 + moment / 10, 20 + moment / 10, OK) for moment in range(100)]

    def why(*calls: object, bit: bool | None = None, **other: object) -> str:
        return unproved(figures([seen(*calls, **other)], TIMES), bit)  # type: ignore[arg-type]

    assert "no call" in why()
    assert "no call" in why(*((at, end, BROKEN) for at, end, _ in before), *during)
    assert "did not show" in why(*before, *during, *after)
    assert why(*before, *after) == "", "nobody was served"
    assert why(*before, *during, (12, 13, BROKEN)) == ""
    assert why(*before, *during, connects=[int(12e9)]) == ""
    assert "did not show" in why(*before, *during, connects=[int(5e9)])
    # Where the stage knows better.
    assert "did not show" in why(*before, *after, bit=False)
    assert why(*before, *during, *after, bit=True) == ""


def test_what_never_healed_has_no_errors_after_it_and_what_saw_no_pool_down_no_wait() -> None:
    found = figures([seen((1, 2, OK), (12, 13, BROKEN))], TIMES)
    assert found.late is None
    assert found.down_wait is None


def test_connects_of_an_outage_shorter_than_a_second_count() -> None:
    times = Times(*(int(moment * 1e9) for moment in (0, 10, 10.1, 10.4, 20)))
    at = [int(moment * 1e9) for moment in (10.2, 10.25, 10.3, 10.35)]
    assert figures([seen(connects=at)], times).attempts == 4


def test_losses_wrong_answers_and_connects_are_counted() -> None:
    at = [int(moment * 1e9) for moment in (11.0, 11.3, 11.6, 12.0, 15.0, 25.0)]
    found = figures([seen((1, 2, WRONG), capacity=3, connects=at), seen(capacity=4)], TIMES)
    assert (found.wrong, found.lost) == (1, 1)
    assert found.attempts == 4 / 3.0
    assert found.churn == 5 / 8


def test_throughput_is_back_when_a_window_has_as_many_good_calls_as_before() -> None:
    before = [(moment / 10, moment / 10, OK) for moment in range(100)]  # ten a second
    after = [(23 + moment / 10, 23 + moment / 10, OK) for moment in range(50)]
    found = figures([seen(*before, *after)], TIMES)  # type: ignore[arg-type]
    assert found.recovered is not None
    assert 3.0 <= found.recovered < 3.5
    assert figures([seen(*before)], TIMES).recovered is None  # type: ignore[arg-type]


def test_what_stale_connections_cost_a_pool_is_not_the_rigs_own_doing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "CAPACITY", 1.0)

    class Conn:
        def __init__(self, stale: bool) -> None:
            self.stale = stale

        def cursor(self) -> Conn:
            return self

        def execute(self, _: str) -> None:
            if self.stale:
                raise OSError("closed by the server")

        def close(self) -> None:
            pass

    class Pool:  # of two, both stale; one that comes back stale is replaced
        def __init__(self) -> None:
            self.idle = [Conn(stale=True), Conn(stale=True)]
            self.take = self.idle.pop

        def give(self, conn: Conn) -> None:
            self.idle.append(Conn(stale=False) if conn.stale else conn)

    pool = Pool()
    assert capacity(pool, 2) == 2  # type: ignore[arg-type]
    assert len(pool.idle) == 2
