"""What every benchmark says of the machine at its beginning, and of its goals at its end."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks._report import Table

__all__ = ["closing", "environment", "opening"]


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """Return what the figures depend on; of a package that can come as a binary, whichever."""
    found = {}
    for package in packages:
        found[package] = "not installed"
        for name in (package, f"{package}-binary"):
            try:
                found[package] = importlib.metadata.version(name)
                break
            except importlib.metadata.PackageNotFoundError:
                pass
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 1),
        "packages": found,
    }


def opening(about: dict[str, Any]) -> str:
    """Return the lines that go before the figures."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    lines = [
        f"Python {about['python']}, {about['system']}, {about['processors']} processors",
        f"PostgreSQL {about['postgresql']}, {packages}",
    ]
    if about["load"] > about["processors"] / 2:
        lines.append(
            f"This machine is busy with something else (load {about['load']}): what depends "
            "on when threads run will look worse; compare the figures with each other only"
        )
    return "\n".join(lines)


def closing(about: dict[str, Any], tables: list[Table], file: Path | None) -> str:
    """Return the last line; write the figures to a file, if there is to be one."""
    if file:
        figures = {"environment": about, "tables": [table.as_json() for table in tables]}
        file.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    goals = [goal for table in tables for goal in table.goals]
    return f"\n{sum(goal.met is True for goal in goals)} of {len(goals)} goals met"
