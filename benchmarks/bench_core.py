"""Measure the pool beside the others, all in one run, and hold it against its goals.

    make bench                                    everything, some minutes
    make bench ARGS='--only idle --rounds 20'     one measurement, with more rounds
    make bench ARGS='--plot docs/benchmarks.svg'  the picture, too, that the README shows
    make bench ARGS='--json figures.json'         the figures too, for benchmarks/plot.py

The pools take turns within every round, so that what else the machine does hits all of them.
Figures are medians over the rounds; in brackets stands the middle half of them, or their ends
where there are fewer than eight. Ratios are medians of each round's own ratio. A pool that is not
installed is left out and said to be.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import _exceptions, _idle, _restart, _spike, _threads, plot
from benchmarks._machine import closing, environment, opening
from benchmarks._peers import Peer
from benchmarks._report import Table
from testproject.postgres import PostgresServer, PostgresUnavailable

_PACKAGES = ("psycopg2", "psycopg", "psycopg-pool", "SQLAlchemy", "DBUtils")


def absent(kind: type[Peer]) -> bool:
    """Return whether the pool is not installed."""
    return bool(kind.package) and importlib.util.find_spec(kind.package) is None


def measurements(
    server: PostgresServer, rounds: int, quick: bool
) -> dict[str, Callable[[], Table]]:
    """Return what can be measured, by the name that --only takes, in the order of the report."""
    dsn = server.dsn()
    seconds = 0.1 if quick else 1.5
    return {
        "idle": lambda: _idle.measure(dsn, 20 if quick else rounds * 200, absent),
        "queries": lambda: _threads.measure_queries(dsn, rounds, seconds, absent),
        "held": lambda: _threads.measure_held(dsn, rounds, seconds, absent),
        "restart": lambda: _restart.measure(server, rounds, absent),
        "exceptions": lambda: _exceptions.measure(
            dsn, 100 if quick else 10_000, 50 if quick else 400, absent
        ),
        "spike": lambda: _spike.measure(
            lambda name: server.dsn(application_name=name),
            rounds,
            0.03 if quick else 0.15,
            absent,
        ),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (5)")
    parser.add_argument("--quick", action="store_true", help="seconds only: does it run at all?")
    parser.add_argument("--only", help="measurements, separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw idle and queries there")
    options = parser.parse_args(arguments)
    if options.plot and options.only and not {"idle", "queries"} <= {*options.only.split(",")}:
        parser.error("--plot draws idle and queries: name both in --only, or leave it out")
    if options.quick:
        options.rounds = 1
    if options.rounds < 1:
        parser.error("--rounds takes a whole number, 1 or more")
    return options


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    # What pools log about the faults that are made here is no news; levels stay as they are.
    logging.getLogger().addHandler(logging.NullHandler())
    about = environment(_PACKAGES)
    with PostgresServer(conf={"max_connections": 200}) as server:
        about["postgresql"] = server.sql("SHOW server_version")
        print(opening(about))
        wanted = measurements(server, options.rounds, options.quick)
        names = options.only.split(",") if options.only else list(wanted)
        if unknown := set(names) - set(wanted):
            sys.exit(f"no measurement {', '.join(unknown)}: there are {', '.join(wanted)}")
        tables = []
        for name in names:
            tables.append(wanted[name]())
            print("\n".join(tables[-1].lines()), flush=True)
    if options.plot:
        figures = {"environment": about, "tables": [table.as_json() for table in tables]}
        options.plot.write_text(plot.draw(figures))
    print(closing(about, tables, options.json))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PostgresUnavailable as error:
        sys.exit(str(error))
