"""What the Makefile says it can do it can: a name without a rule does nothing, and succeeds."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# A Python that says what it was asked, and answers like one of that version, with its parts or not.
PYTHON = """\
#!/bin/sh
case "$2" in
*version_info*) exit {old} ;;
*ensurepip*) exit {lacks} ;;
esac
echo "asked: $*"
"""


def test_every_target_has_a_rule() -> None:
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    names = set(" ".join(phony).split())
    rules = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert {"test", "test-freethreaded"} <= names
    assert names == rules


def made(tmp_path: Path, old: int = 0, lacks: int = 0) -> str:
    """Return what `make` says when it makes the environment with such a Python."""
    python = tmp_path / "python"
    python.write_text(PYTHON.format(old=old, lacks=lacks))
    python.chmod(0o755)
    # As in a recipe of a `make` around this run, whose variables are none of the inner make's.
    environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    venv = tmp_path / "venv"
    done = subprocess.run(
        ["make", f"VENV={venv}", f"PYTHON={python}", f"{venv}/.ready"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode != 0  # none of these Pythons has pip
    assert not (venv / ".ready").exists()
    return done.stdout


def test_a_python_without_its_venv_module_is_told_what_to_install(tmp_path: Path) -> None:
    assert "apt-get install python3-venv" in made(tmp_path, lacks=1)


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    assert re.search(r"/python is not Python 3\.10 or later\.", made(tmp_path, old=1))


@pytest.mark.parametrize("there", [False, True], ids=["new", "its Python is gone"])
def test_an_environment_is_made_where_none_works(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        (tmp_path / "venv" / "bin" / "python").symlink_to(tmp_path / "gone")
    assert f"asked: -m venv --clear {tmp_path / 'venv'}" in made(tmp_path)
