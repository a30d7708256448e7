"""What `reset="auto"` takes to read a statement: no loop over its text, whatever a tracer adds.

    python -m benchmarks.bench_statements

Each text is another one each time, as with a trace comment, so that no verdict is remembered; the
first row is what happens to all others. The goal: at most 10 µs. Depends on the machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from tests.support.inside import leaves

MOST_US = 10.0

_fresh = itertools.count()
COLUMNS = ", ".join(f'"shop_book"."column_{number}"' for number in range(10))
SELECT = (
    f'SELECT {COLUMNS} FROM "shop_book" INNER JOIN "shop_author" ON'
    ' ("shop_book"."author_id" = "shop_author"."id") WHERE "shop_author"."name" = %s LIMIT 21'
)
INSERT = 'INSERT INTO "shop_book" ("id", "title", "author_id") VALUES '
INSERT += ", ".join(["(%s, %s, %s)"] * 333) + " RETURNING id"
LIST = f'{SELECT[:-9]} AND "id" IN ({", ".join(["%s"] * 1000)})'
HISTORY = "SELECT set_config('pghistory.context_id', '{}', true)"


def trace() -> str:
    """Return what sqlcommenter and its kin write, with the next trace's number."""
    number = next(_fresh)
    return (
        "controller='shop%%3Abooks',db_driver='django.db.backends.postgresql',"
        f"route='%%5Ebooks/%%24',traceparent='00-{number:032x}-{number:016x}-01'"
    )


CASES: dict[str, Callable[[], str]] = {
    "sent before, and remembered": lambda: SELECT,
    "new each time": lambda: f"{SELECT} OFFSET {next(_fresh)}",
    "a comment behind it": lambda: f"{SELECT} /*{trace()}*/",
    "a comment in front": lambda: f"/*{trace()}*/ {SELECT}",
    "a comment behind a semicolon": lambda: f"{SELECT}; /*{trace()}*/",
    "1,000 placeholders, a comment": lambda: f"{INSERT} /*{trace()}*/",
    "IN with 1,000 placeholders, a comment": lambda: f"/*{trace()}*/ {LIST}",
    "temp in names, a comment": lambda: (
        f"{SELECT.replace('column_', 'temperature_')} /*{trace()}*/"
    ),
    "a column named temp, a comment": lambda: f"{SELECT.replace('column_1', 'temp')} /*{trace()}*/",
    "SET LOCAL, a comment": lambda: f"SET LOCAL statement_timeout = 1 /*{trace()}*/",
    "set_config(..., true), a comment": lambda: f"{HISTORY.format('a')} /*{trace()}*/",
    "BEGIN, a comment": lambda: f"BEGIN /*{trace()}*/",
    "a savepoint": lambda: f'SAVEPOINT "s1_x{next(_fresh)}"',
    "pghistory's two statements in one *": lambda: f"{HISTORY.format(next(_fresh))}; {SELECT}",
}


def microseconds(make: Callable[[], str]) -> float:
    """Return what one text takes, in the least disturbed of many batches."""
    best = float("inf")
    for _ in range(300):
        texts = [make() for _ in range(10)]
        started = time.perf_counter()
        for text in texts:
            leaves(text)
        best = min(best, (time.perf_counter() - started) / len(texts))
    return best * 1e6


def main() -> None:
    """Print the figures; * is beyond the goal, which is for one statement."""
    missed = []
    for name, make in CASES.items():
        took = microseconds(make)
        print(f"{took:6.1f} µs  {len(make()):5d} characters  {name}")
        if took > MOST_US and not name.endswith("*"):
            missed.append(name)
    print("goal missed: " + ", ".join(missed) if missed else f"each at most {MOST_US:g} µs")


if __name__ == "__main__":
    main()
