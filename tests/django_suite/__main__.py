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
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import django

from testproject._postgres_programs import find_programs
from testproject.postgres import PostgresServer
from tests.django_suite.labels import ALL, TELLING
from tests.django_suite.source import CACHE, packages, source

OUTPUT = "output.txt"

SETTINGS = """\
DATABASES = {databases!r}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
"""

ENGINES = {
    "postgresql": "dbpool_django.backends.postgresql",
    "postgis": "dbpool_django.backends.postgis",
    "sqlite3": "dbpool_django.backends.sqlite3",
}


class Outcome(NamedTuple):
    """What the suite's last lines say; `ran` is None if it did not come to its end."""

    ran: int | None
    failures: int = 0
    errors: int = 0
    skipped: int = 0

    @property
    def good(self) -> bool:
        return bool(self.ran) and not self.failures and not self.errors


def outcome(output: str) -> Outcome:
    """Read the suite's summary."""
    ran = re.findall(r"^Ran (\d+) tests? in", output, re.MULTILINE)
    last = re.findall(r"^(?:OK|FAILED)(?: \((.*)\))?$", output, re.MULTILINE)
    if not ran or not last:
        return Outcome(None)
    numbers = dict(re.findall(r"([\w ]+)=(\d+)", last[-1]))
    found = {name.strip(): int(number) for name, number in numbers.items()}
    return Outcome(
        int(ran[-1]),
        found.get("failures", 0) + found.get("unexpected successes", 0),
        found.get("errors", 0),
        found.get("skipped", 0),
    )


def databases(
    server: PostgresServer | None, options: argparse.Namespace, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return DATABASES; each alias with its own copy of everything."""
    found: dict[str, dict[str, Any]] = {}
    for alias in ("default", "other"):
        entry: dict[str, Any] = {"ENGINE": options.engine, "OPTIONS": {}}
        if options.engine in ENGINES.values():
            entry["OPTIONS"]["pool"] = options.pool
        if server is None:
            # In files, also while testing: a database in memory is not pooled.
            entry["NAME"] = str(folder / f"{alias}.sqlite3")
            entry["TEST"] = {"NAME": str(folder / f"test_{alias}.sqlite3")}
        else:
            where = server.parameters(unix=True)
            server.createdb(f"django_{alias}")
            entry.update(NAME=f"django_{alias}", USER=where["user"])
            entry.update(HOST=str(where["host"]), PORT=str(where["port"]))
        found[alias] = entry
    return found


def run(
    server: PostgresServer | None, labels: list[str], options: argparse.Namespace, folder: Path
) -> Outcome:
    """Run the suite in a process of its own, with its settings and output in `folder`."""
    root = source(django.get_version())
    settings = SETTINGS.format(databases=databases(server, options, folder))
    (folder / "suite_settings.py").write_text(settings)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    here = Path(__file__).parents[2]
    environ["PYTHONPATH"] = os.pathsep.join(map(str, (root, here, folder, packages())))
    if server is not None:  # the suite runs its client programs
        environ["PATH"] = os.pathsep.join((str(find_programs().path), environ.get("PATH", "")))
    command = ["runtests.py", "--settings", "suite_settings", "--noinput"]
    command += [f"--parallel={options.parallel}", *labels]
    log = folder / OUTPUT
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=root / "tests",
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(options.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return Outcome(None)
    found = outcome(log.read_text())
    # A crash after the summary is one all the same.
    return found if process.returncode == 0 or not found.good else Outcome(None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.django_suite", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("labels", nargs="*", help="labels of the suite, as runtests.py takes them")
    parser.add_argument("--all", action="store_true", help="all labels that concern a database")
    parser.add_argument(
        "--engine", default="postgresql", help=f"{', '.join(ENGINES)}, or a dotted path to compare"
    )
    parser.add_argument("--parallel", type=int, default=2, help="processes")
    parser.add_argument("--pool", type=json.loads, default={}, help="options, as JSON")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for all of it")
    options = parser.parse_args()
    labels = options.labels or list(ALL if options.all else TELLING)
    options.engine = ENGINES.get(options.engine, options.engine)
    # The suite creates databases and clones them; nothing in them needs to survive.
    conf = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    begin = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        if options.engine.endswith(".sqlite3"):
            server, driver = None, "sqlite3"
        else:
            server = stack.enter_context(PostgresServer(conf={**conf, "max_connections": 200}))
            driver = "psycopg" if importlib.util.find_spec("psycopg") else "psycopg2"
        found = run(server, labels, options, folder)
        text = (folder / OUTPUT).read_text(errors="replace")
    (CACHE / OUTPUT).write_text(text)  # of the last run, for whoever wants to read all of it
    seconds = time.monotonic() - begin
    what = f"{options.engine}, {driver}, Django {django.get_version()}, {len(labels)} labels"
    if found.ran is None:
        print(text[-3000:], f"{what}: did not come to its end ({seconds:.0f} s)", sep="\n")
        return 1
    if not found.good:
        print(text[-20_000:])
    print(
        f"{what}: ran {found.ran}, failures {found.failures}, errors {found.errors}, "
        f"skipped {found.skipped} ({seconds:.0f} s)"
    )
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
