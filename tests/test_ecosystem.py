"""The frame of `make test-ecosystem`: what it would run, and that its page is about just that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ecosystem import conftest, page
from tests.ecosystem.__main__ import PROGRAMS, packages_of
from tests.ecosystem.environments import ENVIRONMENTS, TELLING, canonical, locked, modules

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "compatibility.md").read_text()


def test_every_module_says_which_distributions_it_is_about_and_some_lock_file_pins_them() -> None:
    for module in modules():
        name = module.stem.removeprefix("test_")
        assert name in PROGRAMS or packages_of(module, "psycopg2"), f"{name} says nothing"
        assert any(_has(environment, module) for environment in ENVIRONMENTS), name


def _has(environment: str, module: Path) -> bool:
    pins = locked(environment)
    return all(canonical(package) in pins for package in packages_of(module, environment))


def test_only_the_environment_for_psycopg_3_has_it() -> None:
    assert {name for name in ENVIRONMENTS if "psycopg" in locked(name)} == {"psycopg"}
    assert all("psycopg2-binary" in locked(name) for name in ENVIRONMENTS)


def test_the_five_that_ci_runs_are_there() -> None:
    assert len(modules(TELLING)) == len(TELLING)
    with pytest.raises(ValueError, match="no tests for nonsense"):
        modules(("nonsense",))


def test_the_page_has_a_line_for_every_module_and_driver_with_the_pinned_versions() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    for name, driver in ENVIRONMENTS.items():
        pins = locked(name)
        for module in (module for module in modules() if _has(name, module)):
            packages = packages_of(module, name)
            cells = [", ".join(packages), ", ".join(pins[canonical(p)] for p in packages), driver]
            if not packages:  # a program of the system's, of whatever version
                cells = [module.stem.removeprefix("test_")]
            start = f"| {' | '.join(cells)} | "
            assert any(line.startswith(start) for line in lines), start


def test_make_test_does_not_collect_them() -> None:
    assert conftest.collect_ignore_glob == ["test_*.py"]


def entry(result: str, **more: Any) -> dict[str, Any]:
    row = {"to_set": "x|y", "test": "test_it_works", "outcome": "passed"}
    rows = [{**row, "parameters": {"kind": kind, "on": "c"}} for kind in "ab"]
    entry = {"name": "it", "versions": {"It": "1.0"}, "result": result, "rows": rows}
    return {**entry, "beside": "Python 3", **more}


def test_a_row_says_what_was_tried_and_what_was_not(tmp_path: Path) -> None:
    results = {"psycopg2": [entry("passed")], "psycopg": [entry("not tried: no wheel", rows=[])]}
    there = tmp_path / "page.md"
    there.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write(there, json.loads(json.dumps(results)))
    text = there.read_text()
    assert "Made with Python 3." in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| It | 1.0 | psycopg2 | it works (a, b; c) | passed (2) | x\\|y |" in text
    assert "| It | 1.0 | psycopg 3 | - | not tried: no wheel | - |" in text
