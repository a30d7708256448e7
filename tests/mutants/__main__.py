"""Plant mistakes at random, one at a time, and see whether the tests that should fail do.

    python -m tests.mutants                     200 mistakes
    python -m tests.mutants --seed 7 --most 20  twenty, the same each time
    python -m tests.mutants --only dbpool/health.py

cosmic-ray finds the places and makes the mistakes (comparisons, operators, constants, `not`,
decorators, exceptions, loops). Left out is what no test can see: annotations, blocks for type
checkers, and `__all__`. Each mistake is made in a copy of the tree. The seed is printed first, each
survivor with its difference. Ends with 1 if fewer than 85 of 100 are seen.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db

from tests.mutants.files import ROOT, modules, tests_for

ENOUGH = 0.85
SECONDS = 600.0  # for the tests of one mistake; a hang is seen
COPIED = ("dbpool", "dbpool_flask", "dbpool_django", "tests", "testproject", "benchmarks", "docs")
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")


class Mistake(NamedTuple):
    """One place and one way to get it wrong."""

    module: Path
    operator: str
    occurrence: int
    line: int

    def text(self) -> tuple[str, str]:
        """Return the module's source without and with it."""
        before = self.module.read_text()
        operator = get_operator(self.operator)()
        return before, mutate_code(before, operator, self.occurrence) or before

    def __str__(self) -> str:
        return f"{self.module.relative_to(ROOT)}:{self.line} {self.operator.partition('/')[2]}"


def _unseen(module: Path) -> list[range]:
    """Return the lines and columns of a module that no test can see, as (line, column) pairs."""
    ranges = []
    for node in ast.walk(ast.parse(module.read_text())):
        hidden: list[ast.AST | None] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            hidden.append(node.returns)
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            hidden.append(node.annotation)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            hidden.append(node)
        for each in hidden:
            if each is not None:
                first = each.lineno * 1000 + each.col_offset  # type: ignore[attr-defined]
                last = each.end_lineno * 1000 + each.end_col_offset  # type: ignore[attr-defined]
                ranges.append(range(first, last))
    return ranges


def every(only: list[Path]) -> list[Mistake]:
    """Return all mistakes that could be made."""
    unseen = {module: _unseen(module) for module in only}
    with tempfile.TemporaryDirectory() as folder:
        with use_db(Path(folder) / "work.sqlite", WorkDB.Mode.create) as db:
            init(only, db, {})
            found = []
            for item in db.work_items:
                (spec,) = item.mutations
                module, (line, column) = Path(spec.module_path), spec.start_pos
                if not any(line * 1000 + column in hidden for hidden in unseen[module]):
                    found.append(Mistake(module, spec.operator_name, spec.occurrence, line))
    return sorted(found)


@contextmanager
def copies(count: int) -> Iterator[SimpleQueue[Path]]:
    """Yield a queue of copies of the tree, one for each that works at the same time."""
    queue: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="dbpool-mutants-") as folder:
        for number in range(count):
            copy = Path(folder) / str(number)
            for name in COPIED:
                skipped = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, copy / name, ignore=skipped)
            for name in FILES:
                shutil.copy(ROOT / name, copy / name)
            queue.put(copy)
        yield queue


def seen(mistake: Mistake, queue: SimpleQueue[Path]) -> bool:
    """Return whether a test fails that should."""
    copy = queue.get()
    before, after = mistake.text()
    there = copy / mistake.module.relative_to(ROOT)
    quick = ["-x", "-q", "--no-header", "-m", "not long", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *quick, *tests_for(mistake.module)]
    environ = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        there.write_text(after)
        done = subprocess.run(
            command, cwd=copy, env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=SECONDS,
        )  # fmt: skip
        return done.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        there.write_text(before)
        queue.put(copy)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--most", type=int, default=200, help="how many mistakes")
    parser.add_argument("--only", type=Path, nargs="*", help="modules")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    only = [path.resolve() for path in options.only] if options.only else modules()
    found = every(only)
    chosen = random.Random(options.seed).sample(found, min(options.most, len(found)))
    print(f"seed {options.seed}: {len(chosen)} of {len(found)} mistakes in {len(only)} modules")
    survived = 0
    with copies(options.jobs) as queue, ThreadPoolExecutor(options.jobs) as executor:
        for mistake, found_out in zip(
            chosen, executor.map(lambda each: seen(each, queue), chosen), strict=True
        ):
            print(f"{'seen    ' if found_out else 'SURVIVED'} {mistake}", flush=True)
            if not found_out:
                survived += 1
                before, after = (text.splitlines() for text in mistake.text())
                print("\n".join(difflib.unified_diff(before, after, n=1, lineterm="")), flush=True)
    share = 1 - survived / len(chosen)
    print(f"seed {options.seed}: {share:.0%} of {len(chosen)} were seen, {survived} survived")
    sys.exit(share < ENOUGH)


if __name__ == "__main__":
    _main()
