"""`make test-all` finds the Pythons that work, and takes nothing for a success that is not one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import interpreters
from tests.interpreters import Pass, find, passes, run


def program(path: Path, version: str = "", status: int = 0) -> str:
    """Write a script that answers like a Python of that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_is_found_by_what_it_says_and_not_by_its_name(tmp_path: Path) -> None:
    bin_, pyenv = tmp_path / "bin", tmp_path / "pyenv"
    ours = program(bin_ / "python3.11", "3.11.7")
    program(bin_ / "python3.10", "3.9.9")
    program(bin_ / "python3.12", status=127)  # pyenv's shim of a version that is not switched on
    program(bin_ / "python3.13", "3.13.0", status=1)  # without its venv module
    program(pyenv / "versions" / "3.12.9" / "bin" / "python3.12", "3.12.9")
    newest = program(pyenv / "versions" / "3.12.10" / "bin" / "python3.12", "3.12.10")
    found = find({"PATH": str(bin_), "PYENV_ROOT": str(pyenv)})
    assert found == {"3.11": ours, "3.12": newest}


def test_the_newest_python_also_gets_the_long_term_django() -> None:
    found = {"3.10": "/a", "3.13": "/b"}
    assert passes(found, []) == [
        Pass("/a", "3.10"),
        Pass("/b", "3.13"),
        Pass("/b", "3.13", "5.2", "tests/web_django"),
    ]
    assert [one.tests for one in passes(found, ["-k", "a b"])] == ["-k 'a b'"] * 3
    assert passes({}, []) == []
    environments = [one.suffix for one in passes(found, [])]
    assert len(set(environments)) == 3


@pytest.mark.parametrize(
    ("prints", "status", "result"),
    [
        ("== 3 passed, 1 skipped in 0.12s ==", 0, (True, ["3 passed, 1 skipped in 0.12s"])),
        (
            "FAILED tests/x.py::test_y - 2 == 1\\n1 failed in 62.10s (0:01:02)\\n4 passed in 1.00s",
            2,
            (
                False,
                [
                    "1 failed in 62.10s (0:01:02); 4 passed in 1.00s",
                    "FAILED tests/x.py::test_y - 2 == 1",
                ],
            ),
        ),
        ("nothing", 0, (False, ["no tests were run"])),
    ],
)
def test_a_pass_is_what_the_makefile_says_and_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prints: str,
    status: int,
    result: tuple[bool, list[str]],
) -> None:
    seen = tmp_path / "seen"
    make = tmp_path / "make"
    make.write_text(
        f'#!/bin/sh\necho "$@" > {seen}\nenv >> {seen}\nprintf "{prints}\\n"\nexit {status}\n'
    )
    make.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    # As in a recipe of `make test-all ARGS=…`, whose ARGS are none of the inner make's.
    monkeypatch.setattr(Pass, "log", tmp_path / "said.log")
    monkeypatch.setenv("MAKEFLAGS", " -- ARGS=outer")
    assert run(Pass("/usr/bin/python3.12", "3.12", tests="tests/core -x")) == result
    arguments, _, environ = seen.read_text().partition("\n")
    assert "PYTHON=/usr/bin/python3.12 VENV=.venv-py3.12 " in arguments
    assert arguments.endswith("ARGS=tests/core -x test")
    assert "outer" not in environ


def test_one_failure_or_no_python_at_all_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interpreters, "find", lambda: {"3.11": "/a", "3.12": "/b"})
    assert interpreters.main([], lambda one: (True, ["1 passed in 0.1s"])) == 0
    assert interpreters.main([], lambda one: (one.version == "3.12", ["counts", "FAILED x"])) == 1
    listed = capsys.readouterr().out
    assert ": FAILED (counts) .venv-py3.11.log\nFAILED x\n" in listed
    assert "Python 3.13: not found" in listed
    monkeypatch.setattr(interpreters, "find", dict)
    assert interpreters.main([]) == 1
