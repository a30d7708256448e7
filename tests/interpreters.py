"""Run the tests on each Python that this machine has: `make test-all`.

    python -m tests.interpreters                       `make test`, in environments of their own
    python -m tests.interpreters tests/web_django -x   what pytest is to do instead

Each Python gets the newest Django that supports it; the newest Python gets 5.2, too, for the
Django tests. Each pass is one line, with what failed in it; all that it printed is in a file whose
name the line says. What was not found stands at the end. The long tests take the same code further,
for hours on four Pythons: `make test-long PYTHON=python3.12` runs them on one.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["VERSIONS", "Pass", "find", "passes", "run"]

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
LTS = "5.2"
_ASK = "import sys, ensurepip, venv; print('.'.join(map(str, sys.version_info[:3])))"
_SUMMARY = re.compile(r"^=* ?((?:\d+ [a-z]+(?:, )?)+ in [\d.]+s.*?) ?=*$")
_FAILED = re.compile(r"^(FAILED|ERROR) tests/")


class Pass(NamedTuple):
    """One run of the tests: on which Python, and on which Django if not the newest."""

    python: str  # its program
    version: str  # such as 3.12
    django: str = ""
    tests: str = ""  # what pytest is to do; "" is all of `make test`

    @property
    def suffix(self) -> str:
        return f"py{self.version}" + (f"-django{self.django}" if self.django else "")

    @property
    def log(self) -> Path:
        """Where all that it prints is kept, until the next such pass."""
        return ROOT / f".venv-{self.suffix}.log"

    @property
    def title(self) -> str:
        """What it runs on; the newest Django is known once it is installed."""
        program = ROOT / f".venv-{self.suffix}" / "bin" / "python"
        django = program.exists() and _answer(
            str(program), "import django; print(django.__version__)"
        )
        return f"Python {self.version}, Django {django or self.django or '(the newest)'}"


def find(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the program of each Python in VERSIONS that runs and can make environments.

    Looks on PATH, then among pyenv's, where the newest of a version comes first. A name on PATH
    proves nothing: pyenv's shims have the names of Pythons that are not switched on.
    """
    home = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = {}
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}", path=environ.get("PATH"))
        at_pyenv = sorted(home.glob(f"{version}.*/bin/python{version}"), key=_age, reverse=True)
        for program in (on_path, *map(str, at_pyenv)):
            if program and _answer(program).startswith(f"{version}."):
                found[version] = program
                break
    return found


def _age(program: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", program.parents[1].name)))


def _answer(program: str, question: str = _ASK) -> str:
    asked = subprocess.run(
        [program, "-c", question],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return asked.stdout.strip() if asked.returncode == 0 else ""


def passes(found: Mapping[str, str], arguments: list[str]) -> list[Pass]:
    """Return what is to be run; Django's long-term release goes on the newest Python."""
    wanted = [
        Pass(program, version, "", shlex.join(arguments)) for version, program in found.items()
    ]
    if wanted:
        newest = wanted[-1]
        wanted.append(newest._replace(django=LTS, tests=newest.tests or "tests/web_django"))
    return wanted


def run(one: Pass) -> tuple[bool, list[str]]:
    """Make the environments and run the tests in them. Return whether all passed, and what it said.

    That is the counts of its parts in one line, and a line for each test that failed. No other
    pass's environments are touched; everything is made by the Makefile.
    """
    environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    environ.pop("MFLAGS", None)
    venv = f".venv-{one.suffix}"
    make = ["make", "--no-print-directory", f"PYTHON={one.python}", f"VENV={venv}"]
    make += [f"PSYCOPG_VENV=.venv-psycopg-{one.suffix}", f"ARGS={one.tests}"]
    with one.log.open("w", encoding="utf-8") as log:

        def passes(command: list[str]) -> bool:
            return not subprocess.run(
                command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode

        if one.django:
            pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            install = [str(ROOT / venv / "bin" / "python"), *pip, f"Django=={one.django}.*"]
            if not (passes([*make, f"{venv}/.ready"]) and passes(install)):
                return False, ["no environment"]
        passed = passes([*make, "test"])
    lines = one.log.read_text(encoding="utf-8", errors="replace").splitlines()
    counts = [found[1] for line in lines if (found := _SUMMARY.match(line.strip()))]
    said = ["; ".join(counts) or "no tests were run", *filter(_FAILED.match, lines)]
    return passed and bool(counts), said


def main(arguments: list[str], run: Callable[[Pass], tuple[bool, list[str]]] = run) -> int:
    """Run everything; return 0 if there was a Python and all passed on each."""
    found = find()
    failed = not found
    for one in passes(found, arguments):
        passed, (counts, *failures) = run(one)
        failed = failed or not passed
        verdict = "passed" if passed else "FAILED"
        print(f"{one.title}: {verdict} ({counts}) {one.log.name}", *failures, sep="\n", flush=True)
    for version in VERSIONS:
        if version not in found:
            print(f"Python {version}: not found")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
