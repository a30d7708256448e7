"""What a libpq service file sets, so that no default of ours overrides it.

libpq takes an argument before the service's, and has no weaker way to pass most of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["settings"]

_SECRET = ("password", "sslpassword")


def settings(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return what the service in use sets, passwords left out; {} where none is used.

    None if that cannot be known: it comes from an LDAP server, or from the file in the directory
    that was compiled into libpq.
    """
    service = given.get("service") or environ.get("PGSERVICE")
    if not service:
        return {}
    for path in _files(given, environ):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = _section(file, str(service))
        except OSError:
            continue
        if found is not None:
            return None if any(key.startswith("ldap") for key in found) else found
    return None


def _files(given: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the files in the order in which libpq reads them."""
    named = given.get("servicefile") or environ.get("PGSERVICEFILE")
    yield str(named) if named else os.path.expanduser("~/.pg_service.conf")
    if directory := environ.get("PGSYSCONFDIR"):
        yield os.path.join(directory, "pg_service.conf")


def _section(lines: Iterator[str], service: str) -> dict[str, str] | None:
    """Return the service's section; None if there is none of that name."""
    found: dict[str, str] | None = None
    for line in map(str.strip, lines):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if found is not None:
                return found
            if line.startswith(f"[{service}]"):
                found = {}
        elif found is not None:
            key, _, value = line.partition("=")
            if key not in _SECRET:
                found.setdefault(key, value)  # the first one counts
    return found
