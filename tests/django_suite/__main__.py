"""Run labels of Django's own suite with a backend of ours, on a PostgreSQL of its own.

    python -m tests.django_suite                # the most telling labels
    python -m tests.django_suite --all          # all that concern a database
    python -m tests.django_suite backends transactions
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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import django

from testproject._postgres_programs import find_programs
from testproject.postgres import PostgresServer
from tests.django_suite.labels import ALL, TELLING
from tests.django_suite.source import CACHE, packages, source

OUTPUT = "output.txt"
OURS = "dbpool_django.backends.postgresql"

SETTINGS = """\
DATABASES = {{
    alias: {{
        "ENGINE": {engine!r},
        "NAME": "django_" + alias,
        "USER": {user!r},
        "HOST": {host!r},
        "PORT": {port!r},
        "OPTIONS": {options!r},
    }}
    for alias in ("default", "other")
}}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
"""


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


def run(
    server: PostgresServer, labels: list[str], options: argparse.Namespace, folder: Path
) -> Outcome:
    """Run the suite in a process of its own, with its settings and output in `folder`."""
    root = source(django.get_version())
    where = {key: str(value) for key, value in server.parameters(unix=True).items()}
    settings = SETTINGS.format(
        engine=options.engine,
        user=where["user"],
        host=where["host"],
        port=where["port"],
        options={"pool": options.pool} if options.engine == OURS else {},
    )
    (folder / "suite_settings.py").write_text(settings)
    for alias in ("default", "other"):
        server.createdb(f"django_{alias}")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    here = Path(__file__).parents[2]
    environ["PYTHONPATH"] = os.pathsep.join(map(str, (root, here, folder, packages())))
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
    parser.add_argument("--engine", default=OURS)
    parser.add_argument("--parallel", type=int, default=2, help="processes")
    parser.add_argument("--pool", type=json.loads, default={}, help="options, as JSON")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for all of it")
    options = parser.parse_args()
    labels = options.labels or list(ALL if options.all else TELLING)
    driver = "psycopg" if importlib.util.find_spec("psycopg") else "psycopg2"
    # The suite creates databases and clones them; nothing in them needs to survive.
    quick = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    begin = time.monotonic()
    conf = {**quick, "max_connections": 200}
    with PostgresServer(conf=conf) as server, TemporaryDirectory() as folder:
        found = run(server, labels, options, Path(folder))
        text = (Path(folder) / OUTPUT).read_text(errors="replace")
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
