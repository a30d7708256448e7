"""Callbacks that settings name by their dotted path."""

from __future__ import annotations

from typing import Any

seen: list[str] = []


def configure(conn: Any) -> None:
    seen.append("configure")


def check(conn: Any) -> None:
    seen.append("check")


def reset(conn: Any) -> None:
    seen.append("reset")
