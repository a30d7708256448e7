"""The mistakes that can be made: cosmic-ray's, but for those that no test can see."""

from __future__ import annotations

import ast
import hashlib
import random
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db

from tests.mutants.files import ROOT

FOR_TYPE_CHECKERS = {"overload", "final", "override"}
# `==` and `is` are the same for most of what is compared here: small integers, words of our own.
# Where they are not, another mistake in the same place shows whether a test looks.
THE_SAME = ("_Eq_Is", "_NotEq_IsNot")


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

    @property
    def key(self) -> str:
        """What it is known by from one run to the next, as long as its module stays as it is."""
        return hashlib.sha256(self.text()[1].encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f"{self.module.relative_to(ROOT)}:{self.line} {self.operator.partition('/')[2]}"


def _span(node: ast.AST) -> range:
    first = node.lineno * 1000 + node.col_offset  # type: ignore[attr-defined]
    last = node.end_lineno * 1000 + node.end_col_offset  # type: ignore[attr-defined]
    return range(first, last)


def _unseen(module: Path) -> list[range]:
    """Return what in a module has no effect when it runs: lines and columns as one number."""
    hidden: list[ast.AST | None] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            hidden.append(node.returns)
            hidden += [
                each
                for each in node.decorator_list
                if ast.unparse(each).rpartition(".")[2] in FOR_TYPE_CHECKERS
            ]
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            hidden.append(node.annotation)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden.append(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "TypeVar"):
            hidden += node.args[:1]
    return [_span(each) for each in hidden if each is not None]


def every(only: list[Path]) -> list[Mistake]:
    """Return all mistakes that could be made, in an order that is always the same."""
    unseen = {module: _unseen(module) for module in only}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        with use_db(Path(folder) / "work.sqlite", WorkDB.Mode.create) as db:
            init(only, db, {})
            for item in db.work_items:
                (spec,) = item.mutations
                module, (line, column) = Path(spec.module_path), spec.start_pos
                if spec.operator_name.endswith(THE_SAME):
                    continue
                if not any(line * 1000 + column in hidden for hidden in unseen[module]):
                    found.append(Mistake(module, spec.operator_name, spec.occurrence, line))
    return sorted(found)


def _compiles(source: str) -> bool:
    """Return whether Python takes it without a warning: what it refuses anybody sees."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            compile(source, "mistake", "exec")
        except (SyntaxError, SyntaxWarning):
            return False
    return True


def chosen(found: list[Mistake], seed: int) -> Iterator[Mistake]:
    """Yield mistakes by chance: of one seed always the same, whatever number is asked for."""
    for mistake in random.Random(seed).sample(found, len(found)):
        before, after = mistake.text()
        if before != after and _compiles(after):
            yield mistake
