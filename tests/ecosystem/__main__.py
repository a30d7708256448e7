"""Run the tests beside real packages, in an environment that has them.

    python -m tests.ecosystem psycopg2                the whole of the environment `psycopg2`
    python -m tests.ecosystem psycopg2 ddtrace uwsgi  two packages
    python -m tests.ecosystem psycopg2 --telling      those that CI runs
    python -m tests.ecosystem --page                  write docs/compatibility.md from the results

Each module of tests runs in a process of its own: a tracer patches the whole process. A package
that the environment lacks is reported as "not tried", and that is a failure of the run. Results
are kept in .ecosystem/, so that the page can be written from several environments.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from testproject._postgres_programs import find_programs
from tests.ecosystem import page
from tests.ecosystem.conftest import ENVIRONMENT, RESULTS
from tests.ecosystem.environments import (
    ENVIRONMENTS,
    HERE,
    TELLING,
    canonical,
    lock_file,
    locked,
    modules,
)
from tests.support.pgbouncer import find_pgbouncer

# Modules that are about a program of the system's, no distribution.
PROGRAMS = {"pgbouncer": find_pgbouncer}
ROOT = HERE.parents[1]
KEPT = ROOT / ".ecosystem"


def packages_of(module: Path, environment: str) -> list[str]:
    """Return the distributions that a module is about in an environment, without importing it."""
    _, _, rest = module.read_text().partition("pytest.mark.package(")
    arguments = rest.partition(")")[0].partition("to_set=")[0]
    words = [word.strip().strip('"') for word in arguments.split(",") if '"' in word]
    return [word.format(driver=environment) for word in words]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _program_version(program: str | None) -> str:
    """Return the first number that a program says of itself; nothing where there is none."""
    if program is None:
        return ""
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else ""


def _beside() -> str:
    """Return what all of it has run on."""
    server = _program_version(str(find_programs().path / "postgres"))
    return f"Python {platform.python_version()}, PostgreSQL {server}"


def _run(environment: str, module: Path) -> tuple[list[dict[str, Any]], bool]:
    """Run one module; return its results and whether all of it passed."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        environ = {**os.environ, ENVIRONMENT: environment, RESULTS: str(results)}
        # Other packages' warnings are not ours to make errors of.
        quiet = ["-q", "--no-header", "-W", "default", "-p", "no:hypothesispytest"]
        command = [sys.executable, "-m", "pytest", *quiet, str(module)]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        rows = json.loads(results.read_text()) if results.exists() else []
    passed = done.returncode == 0 and all(row["outcome"] == "passed" for row in rows) and rows
    if not passed:
        print(done.stdout, done.stderr, sep="\n")
    return rows, bool(passed)


def run(environment: str, only: tuple[str, ...]) -> bool:
    """Run the modules of an environment, print a line for each; return whether all passed."""
    pins, good, entries = locked(environment), True, []
    for module in modules(only):
        packages = packages_of(module, environment)
        if not all(canonical(package) in pins for package in packages):
            continue  # it belongs to another environment
        versions = {package: _version(package) for package in packages}
        name = module.stem.removeprefix("test_")
        if not packages:
            versions[name] = _program_version(PROGRAMS[name]())
        missing = [package for package in packages if not versions[package]]
        started = time.monotonic()
        rows: list[dict[str, Any]] = []
        passed = False
        if missing:
            why = f"{', '.join(missing)} could not be installed"
        else:
            rows, passed = _run(environment, module)
            skipped = [row["why"] for row in rows if row["outcome"] == "skipped"]
            why = skipped[0].removeprefix("Skipped: ") if skipped else ""
        result = "passed" if passed else f"not tried: {why}" if why else "FAILED"
        good = good and passed
        print(f"{environment}: {name}: {result} ({time.monotonic() - started:.0f} s)", flush=True)
        entries.append(
            {
                "name": name,
                "versions": versions,
                "result": result,
                "rows": rows,
                "beside": _beside(),
            }
        )
    KEPT.mkdir(exist_ok=True)
    kept = KEPT / f"{environment}.json"
    before = json.loads(kept.read_text()) if kept.exists() and only else []
    names = {entry["name"] for entry in entries}
    entries += [entry for entry in before if entry["name"] not in names]
    kept.write_text(json.dumps(sorted(entries, key=lambda entry: entry["name"]), indent=1))
    return good


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ecosystem", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("environment", nargs="?", choices=ENVIRONMENTS)
    parser.add_argument("names", nargs="*", help="modules, without test_ and .py")
    parser.add_argument("--telling", action="store_true", help="those that CI runs")
    parser.add_argument("--page", action="store_true", help="write docs/compatibility.md")
    options = parser.parse_args()
    if options.environment:
        print(f"{options.environment}: pinned by {lock_file(options.environment).name}")
        only = TELLING if options.telling else tuple(options.names)
        if not run(options.environment, only):
            sys.exit(1)
    if options.page:
        results = {
            name: json.loads((KEPT / f"{name}.json").read_text())
            for name in ENVIRONMENTS
            if (KEPT / f"{name}.json").exists()
        }
        page.write(ROOT / "docs" / "compatibility.md", results)


if __name__ == "__main__":
    _main()
