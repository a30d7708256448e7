"""The rooms of the core stand on each other, and what it keeps to itself has one door.

Each room imports only rooms below it, annotations included, so that a reader of a file needs only
the floors under it. Tests, benchmarks and the testproject reach private state by `inside` alone.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dbpool
from dbpool import ConnectionPool
from tests.support import inside

ROOT = Path(__file__).resolve().parent.parent
DOOR = ROOT / "tests/support/inside.py"
FILES = [
    path
    for folder in ("tests", "benchmarks", "testproject")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != DOOR
]
SOURCES = sorted((ROOT / "dbpool").rglob("*.py"))
ADAPTERS = ("dbpool_django", "dbpool_flask")
PATCHED = re.compile(r"dbpool(\.\w+)*\._\w")  # in the text that names what is to be replaced
# What tests of an adapter know of its private modules. It may get less.
KNOWN_OF_ADAPTERS = 6
# The same names, of something else than a pool.
NO_POOL = {
    ("tests/web_django/test_forks.py", "pools._lock"),
    ("tests/web_flask/test_fence.py", "connection._lease"),
}


@functools.cache
def private_names() -> set[str]:
    """Return the private attributes of a pool, those that it sets and its methods."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(ConnectionPool))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that is imported from our packages."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("dbpool", *ADAPTERS):
                yield node.lineno, name


def is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def intrusions(path: Path) -> list[str]:
    """Return what a file takes from the inside of the core."""
    text = path.read_text()
    tree = ast.parse(text)
    where = str(path.relative_to(ROOT))
    found = [
        f"{where}:{line}: imports {name}"
        for line, name in imported(tree)
        if name.startswith("dbpool.") and is_private(name)
    ]
    private = private_names()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in private:
            owner = ast.unparse(node.value)
            whole = f"{owner}.{node.attr}"
            if owner not in ("self", "cls", "super()") and (where, whole) not in NO_POOL:
                found.append(f"{where}:{node.lineno}: {whole}")
        elif isinstance(node, ast.Constant) and PATCHED.match(str(node.value)):
            found.append(f"{where}:{node.lineno}: {node.value}")
    return found


def test_the_state_of_a_pool_and_private_modules_are_reached_by_one_door() -> None:
    found = [line for path in FILES for line in intrusions(path)]
    assert not found, "ask tests/support/inside.py instead:\n" + "\n".join(found)


def test_an_intrusion_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_layers.ROOT", tmp_path)
    path = tmp_path / "test_it.py"
    for line in (
        "from dbpool import ConnectionPool, _growth",
        "from dbpool._connect.growth import grow",
        "from dbpool.drivers import _postgres",
        "import dbpool._connect.growth",
        "def test(pool): pool._popped = 1",
        "def test(site): assert not site.pool._in_use",
        "def test(patch): patch.setattr('dbpool._lend.waiting.SOON', 1)",
    ):
        path.write_text(line)
        assert len(intrusions(path)) == 1, line
    path.write_text("from dbpool import ConnectionPool\nself._popped = 1\n")
    assert intrusions(path) == []


def test_tests_of_adapters_learn_no_more_private_modules() -> None:
    found = {
        f"{path.name}: {name}"
        for path in FILES
        for _, name in imported(ast.parse(path.read_text()))
        if name.startswith(ADAPTERS) and is_private(name)
    }
    assert len(found) <= KNOWN_OF_ADAPTERS, "\n".join(sorted(found))


@functools.cache
def looked_up() -> dict[str, set[str]]:
    """Return by file of the core what it looks up: names, and attributes of names."""
    found = {}
    for path in SOURCES:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        found[str(path)] = {
            ast.unparse(node)
            for node in nodes
            if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
            or (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))
        }
    return found


def reads(module: ModuleType, name: str) -> bool:
    """Return whether code looks a name up in a module, as its global or as its attribute."""
    own = str(Path(str(module.__file__)).resolve())
    attribute = f"{module.__name__.rpartition('.')[2]}.{name}"
    return name in looked_up()[own] or any(attribute in names for names in looked_up().values())


@pytest.mark.parametrize("name", inside.SPOTS)
def test_a_name_is_replaced_where_it_is_read(name: str) -> None:
    """One that only comes by there, imported for somebody else, would change nothing."""
    owner, attribute = inside.SPOTS[name][:2]
    if isinstance(owner, str):
        assert owner.startswith(ADAPTERS)  # which need not be installed here
        return
    assert hasattr(owner, attribute)
    if isinstance(owner, ModuleType):
        assert reads(owner, attribute), f"{owner.__name__} does not read {attribute}"


def test_a_name_that_is_read_elsewhere_is_seen() -> None:
    somewhere: Any = inside.fork_gate
    assert reads(somewhere, "MANY")
    assert not reads(somewhere, "annotations")


# What a file imports lies on its own floor or below. The top is for what builds on the pool.
FLOORS = (
    ("options", "errors", "_shown", "_unknown", "_values"),
    ("_runtime",),
    ("drivers",),
    ("_store",),
    ("_connect",),
    ("_upkeep",),
    ("_lend",),
    ("pool", "stats"),
    ("health", "_explained"),
    ("adapters",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Files below the pool that are given all of it, by their annotations. No file joins them, and one
# that no longer needs the pool leaves.
WHOLE_POOL = {
    "options.py",
}


# What an adapter may import of the core.
DOORS = ("adapters", "drivers", "errors", "health", "options", "stats")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_knows_the_doors_of_the_core_alone(adapter: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path in sorted((ROOT / adapter).rglob("*.py"))
        for line, name in imported(ast.parse(path.read_text()))
        if name.startswith("dbpool.")
        and (is_private(name.removeprefix("dbpool.")) or name.split(".")[1] not in DOORS)
        and name.split(".")[1] not in dbpool.__all__
    ]
    assert not found, "ask dbpool.adapters instead:\n" + "\n".join(found)


def test_an_adapter_takes_no_private_state_of_a_pool() -> None:
    private = private_names()
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for adapter in ADAPTERS
        for path in sorted((ROOT / adapter).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in private
        and ast.unparse(node.value).rpartition(".")[2] in ("pool", "_pool")
    ]
    assert not found, "ask dbpool.adapters instead:\n" + "\n".join(found)


def arrows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield room and name of all that a file of the core imports from the core."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        base = [part for part in base if part][1:]
        for alias in node.names:
            yield (base[0] if base else alias.name), alias.name


def test_each_room_imports_only_rooms_below_it() -> None:
    upwards, whole = [], set()
    for path in SOURCES:
        where = path.relative_to(ROOT / "dbpool")
        room = where.with_suffix("").parts[0]
        if room == "__init__":
            continue
        for target, name in arrows(path):
            if FLOOR[target] <= FLOOR[room]:
                continue
            if (target, name) == ("pool", "ConnectionPool"):
                whole.add(where.as_posix())
            else:
                upwards.append(f"{where} imports {name} of {target}")
    assert not upwards, "\n".join(upwards)
    assert whole == WHOLE_POOL


def test_no_two_files_of_the_core_import_each_other_while_they_run() -> None:
    """Within a room, too."""
    needs: dict[str, set[str]] = {}
    for path in SOURCES:
        needs[_module(path)] = set(_at_run_time(path))
    while leaves := {name for name, others in needs.items() if not others & needs.keys()}:
        for name in leaves:
            del needs[name]
    assert not needs, f"in a circle, or above one: {sorted(needs)}"


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _at_run_time(path: Path) -> Iterator[str]:
    """Yield the modules of the core that a file imports when it is imported."""
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT).parts[:-1]
    known = {_module(each) for each in SOURCES}
    for node in tree.body:  # neither what is for annotations only nor what a function imports
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            name = ".".join(part for part in base if part)
            for alias in node.names:
                whole = f"{name}.{alias.name}"
                yield whole if whole in known else name
