"""What the rig prints of its results: the worst of the runs, marks missed, and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks._peers import Dbpool
from testproject.postgres import PostgresServer
from tests.outages import tables
from tests.outages.crowd import Crowd, NotStarted
from tests.outages.figures import Figures, Times, figures
from tests.outages.scenarios import SCENARIOS, Idle, Mark, Result, Scenario
from tests.outages.stages import stop_fast
from tests.outages.test_scenarios import OK, seen

LATE = Mark("errors after heal", "late", 0)
BACK = Mark("95 % again, s", "recovered", 1.0)
STOP = Scenario("stop", stop_fast, 1, (LATE, BACK))


def result(**changes: object) -> Result:
    whole = figures(
        [seen((1, 2, OK), (21, 22, OK))], Times(0, int(10e9), int(11e9), int(20e9), int(30e9))
    )
    found: Figures = replace(whole, **{"recovered": 0.5, **changes})  # type: ignore[arg-type]
    return Result(found, {})


def row(rows: list[list[str]], title: str) -> list[str]:
    (found,) = (each for each in rows if each[0] == title)
    return found[1:]


def test_each_cell_is_the_worst_of_its_runs_and_says_whether_a_mark_is_missed() -> None:
    results = {
        "dbpool": [result(), result(late=3), result(recovered=0.75)],
        "other": [result(late=7)],
    }
    rows, missed = tables.table(STOP, results)
    assert rows[0] == ["worst of the runs", "at most", "dbpool", "other"]
    assert row(rows, "errors after heal") == ["0", "3 !", "7 !"]
    assert row(rows, "95 % again, s") == ["1", "0.75", "0.5"]
    assert missed == 1, "another pool's misses are not ours"


def test_what_never_came_to_be_is_worse_than_any_number() -> None:
    rows, missed = tables.table(STOP, {"dbpool": [result(), result(recovered=None)]})
    assert row(rows, "95 % again, s") == ["1", "> 4 !"]
    assert missed == 1
    rows, missed = tables.table(STOP, {"dbpool": [result(late=None)]})
    assert row(rows, "errors after heal") == ["0", "never healed !"]
    assert missed == 1


def test_a_pool_that_could_not_start_meets_no_mark_and_is_told_as_such() -> None:
    dead = Result(None, {}, "could not start: OperationalError")
    rows, missed = tables.table(STOP, {"dbpool": [result()], "other": [dead]})
    assert row(rows, "errors after heal") == ["0", "0", "never healed !"]
    assert row(rows, "proves nothing") == ["", "", "could not start: OperationalError"]
    assert missed == 0


def test_a_pool_that_connects_when_it_is_made_does_not_start_where_nobody_listens() -> None:
    nowhere = "host=127.0.0.1 port=1 dbname=postgres user=postgres"
    with pytest.raises(NotStarted, match="could not start: OperationalError"):
        Crowd("psycopg2.pool", nowhere, processes=1).__enter__()


def test_a_pool_that_knows_no_such_error_has_not_missed_its_mark() -> None:
    mark = next(one for one in SCENARIOS[0].marks if one.figure == "down_wait")
    rows, missed = tables.table(
        replace(STOP, marks=(mark,)), {"dbpool": [result(down_wait=None)], "other": [result()]}
    )
    assert row(rows, mark.title) == ["1.05", "none", "none"]
    assert missed == 0


def test_a_run_that_proves_nothing_meets_no_mark_and_says_why() -> None:
    empty = replace(result(), unproved="the fault did not show")
    rows, missed = tables.table(STOP, {"dbpool": [result(), empty], "other": [result()]})
    assert row(rows, "errors after heal") == ["0", "0 !", "0"]
    assert row(rows, "proves nothing") == ["", "the fault did not show", ""]
    assert missed == 2


@pytest.mark.exhaustive
def test_every_pool_must_have_had_connections_that_a_restart_made_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = next(one for one in SCENARIOS if isinstance(one, Idle)).script
    assert script("dbpool")[1] == ""
    monkeypatch.setattr(PostgresServer, "restart", lambda self: None)
    assert script("dbpool")[1] == "the fault did not show"
    monkeypatch.setattr(Dbpool, "fill", lambda self, count: None)
    assert script("dbpool")[1] == "0 connections were open, not 6"


def test_every_figure_is_told_of_every_scenario() -> None:
    rows, _ = tables.table(STOP, {"dbpool": [result()]})
    titles = [each[0] for each in rows]
    assert len(set(titles)) == len(titles)
    for title, _ in tables.TOLD:
        assert title in titles


def test_a_scenario_without_a_crowd_has_its_own_marks_only() -> None:
    idle = Idle("idle", lambda pool: ({"failed": 1}, ""), (Mark("errors", "failed", 0),))
    rows, missed = tables.table(idle, {"dbpool": [idle.run("dbpool")]})
    assert rows == [["worst of the runs", "at most", "dbpool"], ["errors", "0", "1 !"]]
    assert missed == 1


def test_the_page_has_all_tables_and_what_was_left_out(tmp_path: Path) -> None:
    page = tables.Page(tmp_path / "results.md")
    rows, _ = tables.table(STOP, {"dbpool": [result()]})
    page.add(STOP, rows, "Runs: 1, in 20 s.")
    page.add(SCENARIOS[-1], [], "Not run: it needs root.")
    text = (tmp_path / "results.md").read_text()
    assert (
        "## stop\n\nThe server is stopped, ending its sessions, and started again. Runs: 1," in text
    )
    assert "| worst of the runs | at most | dbpool |\n|---|---|---|\n| errors after heal |" in text
    assert text.endswith("Not run: it needs root.\n")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_each_scenario_is_described_and_marked(scenario: Scenario | Idle) -> None:
    assert scenario.about.endswith(".")
    assert scenario.marks
    for mark in scenario.marks:
        known = mark.figure in Figures.__dataclass_fields__
        assert known or mark.figure in ("grown", "failed", "connects")
