"""The demo's account: it adds up what was seen, and sees each thing that could be wrong."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest

from testproject.demo import table
from testproject.demo.balance import Balance, Stored, settle, strangers
from testproject.demo.load import Attempt, Notes
from testproject.demo.progress import Progress
from testproject.demo.servers import DJANGO, FLASK, MOST_SESSIONS
from testproject.demo.table import Account
from testproject.demo.witness import PoolEvents

ITEMS = {1: 2, 3: 1}


def settled(
    status: int | None,
    found: dict[str, tuple[int, dict[int, int]]],
    *,
    app_says: bool | None = None,
) -> Balance:
    there = bool(found) if app_says is None else app_says
    return settle([Attempt("k", ITEMS, status)], Stored(found, 0, 0), lambda key: there)


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (201, {"k": (1, ITEMS)}),
        (409, {}),
        (None, {}),
        (None, {"k": (1, ITEMS)}),
        (503, {}),
        (500, {"k": (1, ITEMS)}),
    ],
)
def test_an_account_balances(status: int | None, found: Any) -> None:
    assert settled(status, found).problems == []


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (201, {}),
        (201, {"k": (2, ITEMS)}),
        (201, {"k": (1, {1: 2})}),
        (409, {"k": (1, ITEMS)}),
        (409, {"k": (1, {})}),
        (None, {"k": (2, ITEMS)}),
        (503, {"k": (1, {1: 2})}),
    ],
    ids=[
        "confirmed and lost",
        "confirmed and there twice",
        "confirmed and half of it lost",
        "refused and there",
        "refused and its head there",
        "no answer and there twice",
        "no answer and half of it there",
    ],
)
def test_an_order_that_is_not_what_was_said_is_a_problem(status: int | None, found: Any) -> None:
    assert len(settled(status, found).problems) == 1


@pytest.mark.parametrize("found", [{}, {"k": (1, ITEMS)}])
def test_a_shop_that_contradicts_the_database_is_a_problem(found: Any) -> None:
    assert len(settled(None, found, app_says=not found).problems) == 1


def test_a_key_sent_again_leaves_the_first_order_alone() -> None:
    attempts = [Attempt("k", ITEMS, 201), Attempt("k", {9: 7}, 409), Attempt("k", {9: 7}, None)]
    kept = settle(attempts, Stored({"k": (1, ITEMS)}, 3, 3), lambda key: True)
    assert kept.problems == []
    assert (kept.confirmed_there, kept.refused_absent, kept.unanswered_there) == (1, 1, 0)
    added = settle(attempts, Stored({"k": (1, {**ITEMS, 9: 7})}, 10, 10), lambda key: True)
    assert added.confirmed_there == 0
    assert added.refused_absent == 0
    assert len(added.problems) == 3


def test_orders_of_nobody_and_units_without_an_order_are_problems() -> None:
    attempts = [Attempt("a", ITEMS, 201), Attempt("b", ITEMS, 409), Attempt("c", ITEMS, None)]
    bought = {"a": (1, ITEMS), "c": (1, ITEMS)}
    assert strangers(attempts, Stored(bought, 6, 6)) == []
    assert len(strangers(attempts, Stored({**bought, "b": (1, {})}, 6, 6))) == 1
    assert len(strangers(attempts, Stored(bought, 7, 6))) == 1


def event(time: float, pid: int, what: str, left_open: int) -> dict[str, object]:
    return {"time": time, "pid": pid, "pool": "default", "event": what, "open": left_open}


def test_events_of_several_workers_are_merged_by_time() -> None:
    one = [event(1, 1, "opened", 1), event(4, 1, "closed", 0), event(5, 1, "opened", 1)]
    two = [event(2, 2, "opened", 1), event(3, 2, "opened", 2)]
    assert PoolEvents.count(one + two) == PoolEvents(opened=4, most_open=3)
    assert PoolEvents.count([]) == PoolEvents(opened=0, most_open=0)


def test_a_close_that_is_written_late_does_not_count_as_open() -> None:
    late = [event(1, 1, "opened", 1), event(2, 1, "opened", 1), event(3, 1, "closed", 1)]
    assert PoolEvents.count(late) == PoolEvents(opened=2, most_open=1)


def account(**changes: Any) -> Account:
    fine: dict[str, Any] = {
        "app": FLASK,
        "seconds": 2.0,
        "notes": Notes(seconds=[0.001 * n for n in range(1, 101)]),
        "events": PoolEvents(opened=9, most_open=MOST_SESSIONS),
        "most_sessions": MOST_SESSIONS,
        "most_spares": 2,
        "health": Counter({"200 pass": 4}),
        "balance": Balance(),
        "sessions_ended": 1,
    }
    return Account(**{**fine, **changes})


def test_an_account_within_all_limits_has_no_problem() -> None:
    one_failed = Notes(failures=Counter({"503": 1}))
    assert account().problems() == []
    assert account(notes=one_failed).problems() == []


@pytest.mark.parametrize(
    "broken",
    [
        {"events": PoolEvents(opened=9, most_open=MOST_SESSIONS + 1)},
        {"events": PoolEvents(opened=0, most_open=0)},
        {"most_sessions": MOST_SESSIONS + 1},
        {"notes": Notes(wrong=Counter({"404 instead of 200": 1}))},
        {"notes": Notes(failures=Counter({"500": 1, "RemoteDisconnected": 1}))},
        {"notes": Notes(failures=Counter({"503": 1})), "sessions_ended": 0},
        {"balance": Balance(problems=["order k is lost"])},
    ],
)
def test_a_broken_limit_is_a_problem(broken: dict[str, Any]) -> None:
    (problem,) = account(**broken).problems()
    assert problem.startswith("Flask: ")


def test_the_table_has_a_column_for_each_shop() -> None:
    rendered = table.render([account(app=DJANGO), account(health=Counter({"503 fail": 1}))])
    lines = rendered.splitlines()
    assert lines[1].split() == ["Django", "Flask"]
    assert any(line.split() == ["requests/s", "50", "50"] for line in lines)
    assert any("200 pass: 4" in line and "503 fail: 1" in line for line in lines)
    assert any(line.startswith("p50 / p95 / p99") and "50.5 / 95." in line for line in lines)


def test_percentiles_of_next_to_nothing_are_zero() -> None:
    assert table.percentiles([]) == table.percentiles([1.0]) == (0.0, 0.0, 0.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_one_line_on_a_terminal() -> None:
    screen = Terminal()
    progress = Progress(screen)
    progress.show("a long line")
    progress.show("short")
    progress.say("stays")
    assert screen.getvalue() == "\ra long line\rshort      \r     \rstays\n"


def test_progress_is_sparse_elsewhere() -> None:
    file = io.StringIO()
    progress = Progress(file, every=3600.0)
    for number in range(100):
        progress.show(str(number))
    progress.say("stays")
    assert file.getvalue() == "0\nstays\n"
