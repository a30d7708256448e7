"""docs/api.md says of each public name what its docstring says.

`python -m tests.test_docs_api` writes the page anew.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import dbpool
from dbpool import health
from dbpool.drivers import base

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"

HEAD = """# API reference

Made from the docstrings. Times are in seconds. Options have [a page of their own](options.md), and
so have [what a pool tells](stats.md), [who may call what from where](concurrency.md), [the health
check](health.md) and [Django](django.md).

"""

# Page sections: heading, the module that the names are imported from, the names.
SECTIONS: list[tuple[str, Any, list[str]]] = [
    ("The pool", dbpool, ["ConnectionPool", "deadline"]),
    (
        "Errors",
        dbpool,
        [
            name
            for name in dbpool.__all__
            if isinstance(getattr(dbpool, name), type)
            and issubclass(getattr(dbpool, name), Exception)
        ],
    ),
    (
        "The health check",
        health,
        [name for name in health.__all__ if name not in ("REASONS", "Answer")],
    ),
    ("A driver of your own", base, ["Driver"]),
]


def signature(name: str, value: Any) -> str:
    """Return how it is called; annotations are strings, and shown as they stand in the code."""
    shown: list[str] = []
    keyword_only = False
    for parameter in inspect.signature(value).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            shown.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        shown.append(f"{stars}{parameter.name}: {parameter.annotation}{default}")
    returned = inspect.signature(value).return_annotation
    arrow = "" if returned in ("None", inspect.Signature.empty) else f" -> {returned}"
    return f"{name}({', '.join(shown)}){arrow}"


def members(cls: type) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(cls).items() if not name.startswith("_")]


def described(cls: type, level: str) -> list[str]:
    parts: list[str] = []
    for name, value in members(cls):
        if isinstance(value, property):
            parts.append(f"{level} `{name}`\n\n{inspect.getdoc(value.fget)}\n")
        elif inspect.isfunction(value):
            parts.append(f"{level} `{signature(name, value)}`\n\n{inspect.getdoc(value)}\n")
    return parts


def page() -> str:
    parts = []
    for heading, module, names in SECTIONS:
        parts.append(f"## {heading}\n")
        for name in names:
            value = getattr(module, name)
            where = f"{module.__name__}."
            if inspect.isclass(value) and issubclass(value, Exception):
                (parent, *_) = value.__bases__
                parts.append(f"### `{where}{name}({parent.__name__})`\n\n{inspect.getdoc(value)}\n")
                continue
            shown = (
                f"class {where}{name}" if value is base.Driver else signature(where + name, value)
            )
            parts.append(f"### `{shown}`\n\n{inspect.getdoc(value)}\n")
            if inspect.isclass(value):
                parts += described(value, "####")
    return HEAD + "\n".join(parts)


def test_the_api_page_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text() == page()


def test_every_public_method_and_error_is_described() -> None:
    for _, module, names in SECTIONS:
        for name in names:
            value = getattr(module, name)
            assert inspect.getdoc(value), name
            if inspect.isclass(value) and not issubclass(value, Exception):
                for member, found in members(value):
                    if isinstance(found, property) or inspect.isfunction(found):
                        assert inspect.getdoc(found), f"{name}.{member}"


if __name__ == "__main__":
    PAGE.write_text(page())
