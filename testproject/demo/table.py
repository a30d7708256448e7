"""The closing table, and the verdict on it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from testproject.demo.balance import Balance
from testproject.demo.load import Notes
from testproject.demo.servers import MOST_SESSIONS, App
from testproject.demo.witness import PoolEvents

REFUSALS = (400, 409, 422)  # for what a customer can do wrong


@dataclass(frozen=True)
class Account:
    """Everything that is known about one app at the end."""

    app: App
    seconds: float
    notes: Notes
    events: PoolEvents
    most_sessions: int
    most_spares: int
    health: Counter[str]
    balance: Balance
    sessions_ended: int

    def problems(self) -> list[str]:
        """Return what broke a promise, in sentences; empty if nothing did."""
        found = list(self.balance.problems)
        for count, witness in (
            (self.events.most_open, "by the pools' own events"),
            (self.most_sessions, "by pg_stat_activity"),
        ):
            if count > MOST_SESSIONS:
                found.append(f"{count} connections were open at once {witness}")
        if not self.events.opened:
            found.append("the pools recorded no connection")
        if self.notes.wrong:
            found.append(f"wrong answers: {_by_kind(self.notes.wrong)}")
        if self.notes.failures.total() > self.sessions_ended:
            found.append(
                f"{self.notes.failures.total()} requests failed"
                f" ({_by_kind(self.notes.failures)}), with {self.sessions_ended} sessions ended"
            )
        return [f"{self.app.name}: {problem}" for problem in found]

    def rows(self) -> dict[str, str]:
        notes, balance = self.notes, self.balance
        p50, p95, p99 = percentiles(notes.seconds)
        return {
            "requests": _number(len(notes.seconds)),
            "requests/s": _number(round(len(notes.seconds) / self.seconds)),
            "p50 / p95 / p99, ms": f"{p50 * 1e3:.1f} / {p95 * 1e3:.1f} / {p99 * 1e3:.1f}",
            "invalid orders refused": _number(notes.refusals.total()),
            **{f"  with {status}": _number(notes.refusals[status]) for status in REFUSALS},
            "failed requests": _by_kind(notes.failures),
            "wrong answers": _by_kind(notes.wrong),
            "connections": "",
            "  opened": _number(self.events.opened),
            "  most at once, by the pools' events": f"{self.events.most_open} of {MOST_SESSIONS}",
            "  most at once, by pg_stat_activity": f"{self.most_sessions} of {MOST_SESSIONS}",
            "  spares of /healthz/db beside them": _number(self.most_spares),
            "  sessions ended on the way": _number(self.sessions_ended),
            "/healthz/db answered": _by_kind(self.health),
            "balance": "",
            "  orders answered 201": _number(balance.confirmed),
            "    in the database exactly once": _number(balance.confirmed_there),
            "    of these read back at once": _number(notes.read_back),
            "  orders answered 4xx": _number(balance.refused),
            "    not in the database": _number(balance.refused_absent),
            "  orders without an answer": _number(balance.unanswered),
            "    looked up by key, and there": _number(balance.unanswered_there),
        }


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """Return the 50th, 95th and 99th percentile; zeros of fewer than two values."""
    if len(seconds) < 2:
        return 0.0, 0.0, 0.0
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


def render(accounts: list[Account]) -> str:
    """Return the table: a column for each app."""
    columns = [account.rows() for account in accounts]
    labels = list(columns[0])
    names = ["", *(account.app.name for account in accounts)]
    body = [[label, *(column[label] for column in columns)] for label in labels]
    widths = [max(len(row[i]) for row in [names, *body]) for i in range(len(names))]
    rule = "-" * (sum(widths) + 3 * (len(widths) - 1))
    lines = [rule, _line(names, widths), rule, *(_line(row, widths) for row in body), rule]
    return "\n".join(lines)


def _line(cells: list[str], widths: list[int]) -> str:
    first, *rest = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "   ".join([first, *rest]).rstrip()


def _number(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def _by_kind(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    shown = (f"{kind}: {_number(count)}" for kind, count in sorted(counts.items()))
    return ", ".join(shown) or "0"
