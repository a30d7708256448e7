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


def set_tenant(conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.execute("SET shop.tenant = 'configured'")
