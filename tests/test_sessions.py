"""`make` runs sessions that exist, on Pythons that work; a run without tests is no success."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interpreters import VERSIONS, find, folders

pytest.importorskip("nox")

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
NOX = (sys.executable, "-m", "nox", "--nocolor")


def program(path: Path, version: str = "", status: int = 0) -> str:
    """Write a script that answers like a Python of that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


def nox(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*NOX, *arguments],
        cwd=ROOT,
        env={**kept, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def sessions(**environ: str) -> set[str]:
    """Return the names of all sessions, and those of families of them."""
    listed = nox("--list-sessions", **environ)
    assert listed.returncode == 0, listed.stdout
    names = set(re.findall(r"^[*-] (\S+)", listed.stdout, re.MULTILINE))
    return names | {re.sub(r"\(.*\)$|-3\.\d+$", "", name) for name in names}


def commands(target: str, *arguments: str) -> list[str]:
    """Return what a target would run."""
    # As in a recipe of a `make` around this run, whose variables are none of the inner make's.
    environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "-n", target, *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_python_is_found_by_what_it_says_and_not_by_its_name(tmp_path: Path) -> None:
    bin_, pyenv = tmp_path / "bin", tmp_path / "pyenv"
    ours = program(bin_ / "python3.11", "3.11.7")
    program(bin_ / "python3.10", "3.9.9")
    program(bin_ / "python3.12", status=127)  # pyenv's shim of a version that is not switched on
    program(bin_ / "python3.13", "3.13.0", status=1)  # without its venv module
    program(pyenv / "versions" / "3.12.9" / "bin" / "python3.12", "3.12.9")
    newest = program(pyenv / "versions" / "3.12.10" / "bin" / "python3.12", "3.12.10")
    environ = {"PATH": str(bin_), "PYENV_ROOT": str(pyenv)}
    assert find(environ) == {"3.11": ours, "3.12": newest}
    assert folders(environ)[0] == str(Path(newest).parent)


def test_the_tests_run_on_each_python_and_the_newest_also_gets_the_long_term_django(
    tmp_path: Path,
) -> None:
    bin_ = tmp_path / "bin"
    program(bin_ / "python3.10", "3.10.13")
    program(bin_ / "python3.13", "3.13.0")
    names = sessions(PATH=f"{bin_}", PYENV_ROOT=str(tmp_path))
    assert {f"pythons-{version}" for version in VERSIONS} <= names
    assert {f"pythons-psycopg-{version}" for version in VERSIONS} <= names
    assert {name for name in names if name.startswith("django-lts-")} == {"django-lts-3.13"}


def test_each_session_that_a_target_names_is_there() -> None:
    there = sessions()
    targets = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)) - {"help"}
    named = set()
    for target in targets:
        for command in commands(target):
            if "-m nox -s " in command:
                wanted = command.partition(" -s ")[2].partition(" --")[0]
                named |= {name.strip("'") for name in wanted.split()}
    assert {"tests", "psycopg", "exhaustive", "check"} <= named
    assert named <= there


def test_arguments_go_to_one_run_of_pytest_as_they_are() -> None:
    with_them = [line for line in commands("test", "ARGS=-k 'a b' -x") if " nox " in line]
    assert len(with_them) == 1
    assert with_them[0].endswith("-m nox -s tests  -- -k 'a b' -x")
    without = [line for line in commands("test") if " nox " in line]
    assert len(without) == 1
    assert without[0].split("-s")[1].split() == ["tests", "psycopg", "--"]


@pytest.mark.parametrize(
    ("chosen", "status"),
    [("test_every_target_has_a_rule", 0), ("no_test_is_called_so", 1)],
)
def test_a_session_succeeds_if_tests_were_run_and_passed(chosen: str, status: int) -> None:
    done = nox("-s", "tests", "--", "-q", "-k", chosen, "tests/test_makefile.py")
    assert done.returncode == status, done.stdout
    assert ("1 passed" in done.stdout) == (status == 0)


def test_a_python_that_is_not_there_is_named() -> None:
    absent = next(version for version in VERSIONS if version != f"3.{sys.version_info.minor}")
    done = nox("-s", f"pythons-{absent}", "--install-only", PATH="/nowhere", PYENV_ROOT="/nowhere")
    assert re.search(rf"Python interpreter {absent} not found", done.stdout), done.stdout
