"""Measure a Django view with one query beside the other ways to connect, all in one run.

    make bench-django                             everything, less than four minutes
    make bench-django ARGS='--rounds 40'          with more rounds
    make bench-django ARGS='--only requests'      one measurement
    make bench-django ARGS='--markdown FILE'      with the tables for docs/django.md

Each way has a process of its own, in which the view is called through Django's WSGI handler; they
take turns within every round, so that what else the machine does hits all of them. Figures are
medians over the rounds; in brackets stands the middle half of them, or their ends where there are
fewer than eight. Ratios are medians of each round's own ratio. What is not installed is left out
and said to be.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks._django_site import THREADS
from benchmarks._django_variants import CONNECTIONS, VARIANTS, Variant
from benchmarks._machine import closing, environment, opening
from benchmarks._report import Column, Table, rotated
from testproject.postgres import PostgresServer, PostgresUnavailable

ROOT = Path(__file__).parents[1]
PACKAGES = ("Django", "psycopg2", "psycopg", "psycopg-pool", "django-db-connection-pool")
DRIVERS = ("psycopg2", "psycopg")
# Processor time counts what this process does, system calls included: it hardly depends on what
# else the machine is doing.
_MICROS = (Column("micros", "µs", "{:.1f}"), Column("cpu", "processor µs", "{:.1f}"))
_TABLES = """
    CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO item VALUES (1, 'a');
"""


class Process:
    """One variant's process."""

    def __init__(self, variant: Variant, where: dict[str, Any]) -> None:
        self.variant = variant
        arguments = [variant.name, json.dumps(where, default=str)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._django_site", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Process:
        if self._answer() != "ready":
            raise RuntimeError(f"{self.variant.name} did not start")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def measure(self, what: str, **how: float) -> dict[str, float]:
        assert self._process.stdin is not None
        print(json.dumps({"what": what, **how}), file=self._process.stdin, flush=True)
        found: dict[str, float] = json.loads(self._answer())
        return found

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


# The measurements, by the name that --only takes.


def requests(processes: list[Process], rounds: int, quick: bool) -> Table:
    """One thread, request after request."""
    table = Table("requests", "A view with one query, one thread", _MICROS)
    for number in range(rounds if quick else rounds * 4):
        for process in rotated(processes, number):
            # Each turn takes some tenths of a second.
            connects = process.variant.name.startswith("CONN_MAX_AGE=0")
            count = 5 if quick else 30 if connects else 400
            table.add(process.variant.name, **process.measure("requests", count=count))
    for driver in DRIVERS:
        table.goal(
            f"dbpool, {driver} <= 1.03 x CONN_MAX_AGE=None, {driver}",
            table.ratio(f"dbpool, {driver}", f"CONN_MAX_AGE=None, {driver}", "micros"),
            most=1.03,
            form="{:.3f}",
        )
    return table


def crowd(processes: list[Process], rounds: int, quick: bool) -> Table:
    """Many threads, each request after request."""
    table = Table(
        "crowd",
        f"The same, {THREADS} threads on {CONNECTIONS} connections",
        (
            Column("rate", "requests/s", "{:.0f}"),
            Column("p50", "p50, ms", "{:.1f}"),
            Column("p99", "p99, ms", "{:.1f}"),
            Column("cpu", "processor µs", "{:.0f}"),
        ),
    )
    table.notes.append(f"CONN_MAX_AGE: a connection for each thread, {THREADS} of them")
    for number in range(rounds):
        for process in rotated(processes, number):
            found = process.measure("crowd", seconds=0.2 if quick else 1.0)
            table.add(process.variant.name, **found)
    for driver in DRIVERS:
        ours = f"dbpool, {driver}"
        peers = [
            one.name
            for one in VARIANTS
            if one.pooled and not one.ours and one.driver == driver and one.name in table.rows
        ]
        best = max(peers, key=lambda name: table.median(name, "rate") or 0.0, default="")
        table.goal(
            f"{ours} requests/s >= the best pool on {driver} ({best or 'none is installed'})",
            table.ratio(ours, best, "rate"),
            least=1.0,
        )
        calm = min(peers, key=lambda name: table.median(name, "p99") or 0.0, default="")
        table.goal(
            f"{ours} p99 <= the best pool's on {driver} ({calm or 'none is installed'})",
            table.ratio(ours, calm, "p99"),
            most=1.0,
        )
    return table


def checkouts(processes: list[Process], rounds: int, quick: bool) -> Table:
    """Take a connection and give it back, without a query."""
    title = "Taking a connection and giving it back, without a query"
    table = Table("checkouts", title, _MICROS)
    table.notes.append("CONN_MAX_AGE: close() closes the connection, so that the next connects")
    for number in range(rounds if quick else rounds * 4):
        for process in rotated(processes, number):
            count = 5 if quick else 1000 if process.variant.pooled else 10
            table.add(process.variant.name, **process.measure("checkouts", count=count))
    for driver in DRIVERS:
        name = f"dbpool, {driver}"
        table.goal(f"{name} <= 25 µs", table.median(name, "micros"), most=25.0, form="{:.1f}")
    return table


MEASUREMENTS = {"requests": requests, "checkouts": checkouts, "crowd": crowd}


def measure(server: PostgresServer, names: list[str], rounds: int, quick: bool) -> list[Table]:
    """Make the tables, with all variants' processes there from beginning to end."""
    tables = []
    with ExitStack() as stack:
        present = [one for one in VARIANTS if not one.absent]
        processes = [
            stack.enter_context(Process(one, server.parameters(dbname="postgres")))
            for one in present
        ]
        for name in names:
            tables.append(MEASUREMENTS[name](processes, rounds, quick))
            for one in VARIANTS:
                if one.absent:
                    tables[-1].missing(one.name)
            print("\n".join(tables[-1].lines()), flush=True)
    return tables


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each measurement (9)")
    parser.add_argument("--quick", action="store_true", help="seconds only: does it run at all?")
    parser.add_argument("--only", help="measurements, separated by commas")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds takes a whole number, 1 or more")
    options.names = options.only.split(",") if options.only else list(MEASUREMENTS)
    unknown = [name for name in options.names if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"no measurement {unknown[0]!r}: there are {', '.join(MEASUREMENTS)}")
    if options.quick:
        options.rounds = 1
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    about = environment(PACKAGES)
    with PostgresServer(conf={"max_connections": 200}) as server:
        about["postgresql"] = server.sql("SHOW server_version")
        server.sql(_TABLES)
        print(opening(about))
        tables = measure(server, options.names, options.rounds, options.quick)
    if options.markdown:
        lines = [line + "  " for line in opening(about).splitlines()]
        for table in tables:
            lines += ["", *table.page()]
        options.markdown.write_text("\n".join(lines) + "\n")
    print(closing(about, tables, options.json))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PostgresUnavailable as error:
        sys.exit(str(error))
