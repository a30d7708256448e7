"""One run of Django's suite: its settings, its process, and what its last lines say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from testproject._postgres_programs import find_programs
from testproject.postgres import PostgresServer

__all__ = ["Outcome", "Wanted", "outcome", "run"]

# What Django sets for its own suite differs between versions: DEFAULT_AUTO_FIELD does. Another
# driver than the one that is meant is refused here, because only in the suite's process is it known
# which one Django takes: psycopg 3, wherever that can be imported.
_SETTINGS = """\
from test_sqlite import *

DATABASES = {databases!r}

if {driver!r} != "sqlite3":
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    found = "psycopg" if is_psycopg3 else "psycopg2"
    if found != {driver!r}:
        raise SystemExit(f"Django takes {{found}} here, this run is to test {driver}.")
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


@dataclass
class Wanted:
    """What to run: `driver` is psycopg2, psycopg or sqlite3, `timeout` is in seconds."""

    engine: str
    driver: str
    labels: list[str]
    parallel: int = 2
    timeout: float = 3600.0
    options: dict[str, Any] = field(default_factory=dict)  # OPTIONS of each alias


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
    wanted: Wanted, suite: Path, packages: Path, server: PostgresServer | None, folder: Path
) -> tuple[Outcome, str]:
    """Run the suite of the Django in `suite` in a process of its own; return its output too.

    Arguments: `packages`, a folder with what it needs besides Django; `folder`, an empty one.
    """
    databases = _databases(wanted, server, folder)
    settings = _SETTINGS.format(databases=databases, driver=wanted.driver)
    (folder / "suite_settings.py").write_text(settings)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    here = Path(__file__).parents[2]
    environ["PYTHONPATH"] = os.pathsep.join(map(str, (suite, here, folder, packages)))
    if server is not None:  # the suite runs its client programs
        environ["PATH"] = os.pathsep.join((str(find_programs().path), environ.get("PATH", "")))
    command = ["runtests.py", "--settings", "suite_settings", "--noinput"]
    command += [f"--parallel={wanted.parallel}", *wanted.labels]
    log = folder / "output.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=suite / "tests",
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(wanted.timeout)
        except subprocess.TimeoutExpired:
            pass  # no summary, or one that came before a hang: the status says so
        finally:
            # Workers that outlive it would go on in databases that are about to go.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text(errors="replace")
    found = outcome(text)
    # A crash after the summary is one all the same.
    return (found if process.returncode == 0 or not found.good else Outcome(None)), text


def _databases(
    wanted: Wanted, server: PostgresServer | None, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return DATABASES; each alias with its own copy of everything."""
    found: dict[str, dict[str, Any]] = {}
    for alias in ("default", "other"):
        entry: dict[str, Any] = {"ENGINE": wanted.engine, "OPTIONS": dict(wanted.options)}
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
