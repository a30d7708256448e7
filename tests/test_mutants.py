"""The map from modules to the tests that should see a mistake in them is up to date."""

from __future__ import annotations

import pytest

from tests.mutants import files


def test_each_module_has_tests_that_are_there_or_is_left_out() -> None:
    assert files.mistakes_in_the_map() == []


def test_a_file_of_tests_that_is_not_there_and_a_module_that_is_missed_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "dbpool/_runtime/clock.py"
    tests = {**files._TESTS, name: ("tests/core/test_", "none"), "dbpool/none.py": ("", "")}
    monkeypatch.setattr(files, "_TESTS", tests)
    assert files.mistakes_in_the_map() == [
        "dbpool/none.py: no module fits",
        f"{name}: there is no tests/core/test_none.py",
    ]
    del tests[name], tests["dbpool/none.py"]
    assert files.mistakes_in_the_map() == [f"{name}: neither has tests nor is left out"]
