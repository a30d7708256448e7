"""How Django's database backends fail, and whether ours does: one table, each cell measured.

    make bench-faults                                   # all of it
    python benchmarks/django_faults.py --rows restart fork_after_query --columns dbpool2 django

Each cell is a process of its own, which sets Django up with one backend on a throw-away server,
provokes the fault and says what came of it. d-d-c-pool is django-db-connection-pool. Ends with 0
only if no cell of ours is bad.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import _faults_asgi, _faults_processes, _faults_requests, _faults_servers
from benchmarks._faults_columns import COLUMNS, Column
from benchmarks._faults_stage import CASES, Case, Stage, Verdict

__all__ = ["measure"]

# Importing them enters their cases.
_ROOMS = (_faults_requests, _faults_asgi, _faults_servers, _faults_processes)
SECONDS = 90  # for one cell; what takes longer hangs
DSN = "DBPOOL_FAULTS_DSN"


def measure(case: Case, column: Column, dsn: str) -> Verdict:
    """Provoke one fault in one backend, in a process of its own; return what came of it."""
    command = [sys.executable, __file__, "--cell", case.key, column.key]
    process = subprocess.Popen(
        command,
        env={**os.environ, DSN: dsn, "DBPOOL_TEST_INSIDE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Verdict(False, "hangs")
    lines = out.splitlines()
    if process.returncode or not lines:
        sys.stderr.write(f"{case.key} {column.key}: {err[-3000:]}\n")
        return Verdict(False, f"crashes ({process.returncode})")
    return Verdict(*json.loads(lines[-1]))


def cell(case: Case, column: Column, dsn: str) -> None:
    """Provoke the fault in this process, and print what came of it."""
    if column.driver == "psycopg2":
        sys.modules["psycopg"] = None  # type: ignore[assignment] # Django would take it
    from tests.support.servers import GivenPostgres
    from tests.web_django.project import Project
    from tests.web_django.site import Site

    logging.disable()
    settings = column.settings(case.size, case.pool)
    options = settings.pop("OPTIONS", {})
    with Project(
        GivenPostgres(dsn),
        pool=options.get("pool"),
        database={**settings, **case.database},
        settings=case.settings if column.is_ours else {},
    ) as project:
        from django.db import connection

        used = connection.Database.__name__
        if used != column.driver:
            raise RuntimeError(f"Django uses {used} here, not {column.driver}")
        verdict = case.run(Stage(project, Site(), column.is_ours, case.size))
        print(json.dumps(verdict), flush=True)
        if not column.is_ours:
            os._exit(0)  # a transaction that was left open would keep the tables from going


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--columns", nargs="*", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--cell", nargs=2, metavar=("ROW", "COLUMN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        row, key = options.cell
        cell(CASES[row], COLUMNS[key], os.environ[DSN])
        return 0
    from testproject.postgres import PostgresServer

    columns = [COLUMNS[key] for key in options.columns]
    for column in columns:
        if column.missing:
            print(f"{' '.join(column.title.split())}: {column.missing} is not installed here")
    columns = [column for column in columns if not column.missing]
    bad = 0
    with PostgresServer() as server:
        for part in (0, 1):
            titles = "".join(f"{column.title.splitlines()[part]:<26}" for column in columns)
            print(f"{'':<70}{titles}")
        for row in options.rows:
            case = CASES[row]
            print(f"{case.title:<70}", end="", flush=True)
            for column in columns:
                verdict = measure(case, column, server.dsn())
                mark = {True: " ", False: "!", None: "-"}[verdict.good]
                print(f"{mark} {verdict.said[:23]:<24}", end="", flush=True)
                bad += column.is_ours and verdict.good is False
            print()
    print("! is a fault, - a question that does not arise")
    print("* with this option or middleware of ours; the others have nothing like it")
    print(f"Faults of ours: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
