"""Which Pythons this machine has: the matrices of noxfile.py run the tests on each of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["VERSIONS", "find", "folders"]

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
_ASK = "import sys, ensurepip, venv; print('.'.join(map(str, sys.version_info[:3])))"


def find(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the program of each Python in VERSIONS that runs and can make environments.

    Looks on PATH, then among pyenv's, where the newest of a version comes first. A name on PATH
    proves nothing: pyenv's shims have the names of Pythons that are not switched on.
    """
    found = {}
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}", path=environ.get("PATH"))
        for program in (on_path, *map(str, _at_pyenv(version, environ))):
            if program and _answer(program).startswith(f"{version}."):
                found[version] = program
                break
    return found


def folders(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the folders of pyenv's Pythons, in which nox does not look by itself."""
    return [str(program.parent) for each in VERSIONS for program in _at_pyenv(each, environ)]


def _at_pyenv(version: str, environ: Mapping[str, str]) -> list[Path]:
    home = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    return sorted(home.glob(f"{version}.*/bin/python{version}"), key=_age, reverse=True)


def _age(program: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", program.parents[1].name)))


def _answer(program: str) -> str:
    asked = subprocess.run(
        [program, "-c", _ASK],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return asked.stdout.strip() if asked.returncode == 0 else ""
