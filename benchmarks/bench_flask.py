"""Measure a Flask view with one query beside the other ways to write it, all in one run.

    make bench-flask                              everything, three minutes
    make bench-flask ARGS='--rounds 20'           with more rounds
    make bench-flask ARGS='--page docs/flask-benchmark.md'   and put the tables into that page

Each app has a process of its own, which calls it through `wsgi_app`; they take turns within every
round, so that what else the machine does hits all of them. 16 threads share 4 connections: once at
random moments, as a server's threads do, and once each again as soon as it is answered, which is
more than the machine can do. Figures are medians over the rounds; in brackets stands the
middle half of them, or their ends where there are fewer than eight. Ratios are medians of each
round's own ratio.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks._flask_apps import APPS, CONNECTIONS, PACKAGES
from benchmarks._machine import closing, environment, opening
from benchmarks._report import Column, Table, rotated
from testproject.postgres import PostgresServer, PostgresUnavailable

OURS, THEIRS, CAREFUL = "dbpool", "psycopg2.pool by hand", "the same with care"
BEGIN, END = "<!-- measured -->", "<!-- end -->"
THREADS = 16
RATE = 1000.0  # requests/s at random moments: what one processor does without queues
_COLUMNS = (
    Column("p50", "p50, µs", "{:.0f}"),
    Column("p99", "p99, µs", "{:.0f}"),
    Column("longest", "longest, ms", "{:.1f}"),
    Column("rate", "requests/s", "{:.0f}"),
    Column("processor", "processor, µs/request", "{:.0f}"),
)
_PACKAGES = (
    "Flask",
    "psycopg2",
    "psycopg",
    "psycopg-pool",
    "SQLAlchemy",
    "Flask-SQLAlchemy",
    "Flask-SQLAlchemy-Lite",
)
_TABLES = """
    CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO item VALUES (1, 'a');
"""


class App:
    """One app in its process."""

    def __init__(self, name: str, dsn: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._flask_apps", name, dsn],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> App:
        if self._line() != "ready":
            raise RuntimeError(f"the app {self.name!r} did not start")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def measure(self, threads: int, seconds: float, rate: float | None) -> dict[str, float]:
        assert self._process.stdin is not None
        wanted = {"threads": threads, "seconds": seconds, "rate": rate}
        print(json.dumps(wanted), file=self._process.stdin, flush=True)
        found: dict[str, float] = json.loads(self._line())
        found["longest"] /= 1000
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def measure(
    apps: list[App], threads: int, rate: float | None, rounds: int, seconds: float
) -> Table:
    """Return the table for that many threads; `rate` as in `_Calls.many`."""
    crowd = f"{threads} threads" if threads > 1 else "1 thread"
    pace = "each again as soon as it is answered" if rate is None else f"{rate:g} requests/s"
    title = f"A view with one query, {crowd} on {CONNECTIONS} connections, {pace}"
    table = Table(f"flask_{threads}" + ("_paced" if rate else ""), title, _COLUMNS)
    for number in range(rounds):
        for app in rotated(apps, number):
            table.add(app.name, **app.measure(threads, seconds, rate))
    if threads > CONNECTIONS and rate is None:
        table.notes.append(
            "where those who are served are served again, as by psycopg2.pool, the p50 is theirs "
            "and the others starve; in turn everybody waits for threads / (requests/s)"
        )
    for key in ("p50", "p99"):
        table.goal(
            f"dbpool {key} at most that of {THEIRS}",
            table.ratio(OURS, THEIRS, key),
            most=1.0,
            form="{:.3f} x",
        )
    if rate is None:
        served = table.ratio(OURS, THEIRS, "rate")
        table.goal(
            f"dbpool serves at least as many as {THEIRS}", served, least=1.0, form="{:.3f} x"
        )
    for name in (THEIRS, CAREFUL):
        ratio = table.ratio(OURS, name, "processor")
        if ratio is not None:
            table.notes.append(f"processor time of dbpool: {ratio:.3f} x that of {name}")
    return table


def put_into(page: Path, about: dict[str, Any], tables: list[Table]) -> None:
    """Replace what stands between the two marks of a page by the tables."""
    head, _, rest = page.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    lines = [BEGIN, *(line + "  " for line in opening(about).splitlines())]
    for table in tables:
        lines += ["", *table.page()]
    page.write_text("\n".join([head + lines[0], *lines[1:], "", END]) + tail)


def _is_absent(name: str) -> bool:
    package = PACKAGES.get(name)
    return package is not None and importlib.util.find_spec(package) is None


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each measurement (9)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each turn (0.5)")
    parser.add_argument("--quick", action="store_true", help="seconds only: does it run at all?")
    parser.add_argument("--only", help="apps, separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables into that page")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 0.1
    if options.rounds < 1:
        parser.error("--rounds takes a whole number, 1 or more")
    if options.page and not (
        options.page.exists() and END in options.page.read_text().partition(BEGIN)[2]
    ):
        parser.error(f"--page takes a page with lines {BEGIN} and {END} to put the tables between")
    options.names = options.only.split(",") if options.only else list(APPS)
    unknown = [name for name in options.names if name not in APPS]
    if unknown:
        parser.error(f"no app {unknown[0]!r}; there are {', '.join(APPS)}")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    about = environment(_PACKAGES)
    tables: list[Table] = []
    with PostgresServer(conf={"max_connections": 200}) as server:
        about["postgresql"] = server.sql("SHOW server_version")
        server.sql(_TABLES)
        print(opening(about))
        absent = [name for name in options.names if _is_absent(name)]
        with ExitStack() as stack:
            apps = [
                stack.enter_context(App(name, server.dsn()))
                for name in options.names
                if name not in absent
            ]
            for threads, rate in ((1, None), (THREADS, RATE), (THREADS, None)):
                table = measure(apps, threads, rate, options.rounds, options.seconds)
                for name in absent:
                    table.missing(name)
                tables.append(table)
                print("\n".join(table.lines()), flush=True)
    print(closing(about, tables, options.json))
    if options.page:
        put_into(options.page, about, tables)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PostgresUnavailable as error:
        sys.exit(str(error))
