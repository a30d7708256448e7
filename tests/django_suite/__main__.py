"""Run labels of Django's own suite with a backend of ours, on a PostgreSQL of its own.

    python -m tests.django_suite                # the most telling labels
    python -m tests.django_suite --all          # all that concern a database
    python -m tests.django_suite backends transactions
    python -m tests.django_suite --engine sqlite3
    python -m tests.django_suite --engine django.db.backends.postgresql   # to compare

Prints one line: ran, failures, errors, skipped. Ends with 0 only if there is no failure and no
error, and the suite came to its end: one that hangs, crashes or runs nothing is a failure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import django

from testproject.postgres import PostgresServer
from tests.django_suite.labels import ALL, TELLING
from tests.django_suite.running import Wanted, run
from tests.django_suite.source import CACHE, packages, source

ENGINES = {
    "postgresql": "dbpool_django.backends.postgresql",
    "postgis": "dbpool_django.backends.postgis",
    "sqlite3": "dbpool_django.backends.sqlite3",
}


def parse(arguments: list[str]) -> Wanted:
    parser = argparse.ArgumentParser(prog="python -m tests.django_suite", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("labels", nargs="*", help="labels of the suite, as runtests.py takes them")
    parser.add_argument("--all", action="store_true", help="all labels that concern a database")
    parser.add_argument(
        "--engine", default="postgresql", help=f"{', '.join(ENGINES)}, or a dotted path to compare"
    )
    parser.add_argument(
        "--driver", choices=("psycopg2", "psycopg"), help="fail where Django takes the other"
    )
    parser.add_argument("--parallel", type=int, default=2, help="processes")
    parser.add_argument("--pool", type=json.loads, help="options, as JSON")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for all of it")
    given = parser.parse_args(arguments)
    engine = ENGINES.get(given.engine, given.engine)
    driver = given.driver or ("psycopg" if importlib.util.find_spec("psycopg") else "psycopg2")
    return Wanted(
        engine,
        "sqlite3" if engine.endswith(".sqlite3") else driver,
        given.labels or list(ALL if given.all else TELLING),
        given.parallel,
        given.timeout,
        {} if given.pool is None else {"pool": given.pool},
    )


def main(arguments: list[str]) -> int:
    wanted = parse(arguments)
    begin = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        suite = source(django.get_version())
        server = None
        if wanted.driver != "sqlite3":
            # The suite creates databases and clones them; nothing in them needs to survive.
            conf = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            server = stack.enter_context(PostgresServer(conf={**conf, "max_connections": 200}))
        found, text = run(wanted, suite, packages(), server, folder)
    # For whoever wants to read all of the last run.
    (CACHE / f"output-{wanted.driver}.txt").write_text(text)
    seconds = time.monotonic() - begin
    version = ".".join(map(str, sys.version_info[:2]))
    what = (
        f"{wanted.engine}, {wanted.driver}, Django {django.get_version()}, Python {version}, "
        f"{len(wanted.labels)} labels"
    )
    if found.ran is None:
        print(text[-3000:], f"{what}: did not come to its end ({seconds:.0f} s)", sep="\n")
        return 1
    if not found.good:
        print(text[-20_000:])
    print(
        f"{what}: ran {found.ran}, failures {found.failures}, errors {found.errors}, "
        f"skipped {found.skipped} ({seconds:.0f} s)",
        flush=True,
    )
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
