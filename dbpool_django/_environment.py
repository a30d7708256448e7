"""How many processes and threads will serve: what the environment says of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

__all__ = ["processes", "threads"]


def processes(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of worker processes (gunicorn's --workers, WEB_CONCURRENCY), or None."""
    return _of_gunicorn(environ, "--workers", "-w") or _number(environ.get("WEB_CONCURRENCY"))


def threads(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of threads of each process (gunicorn's --threads), or None."""
    return _of_gunicorn(environ, "--threads")


def _of_gunicorn(environ: Mapping[str, str], *names: str) -> int | None:
    try:
        words = shlex.split(environ.get("GUNICORN_CMD_ARGS", ""))
    except ValueError:
        return None
    found = None
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in names:
            found = _number(value or "".join(words[index + 1 : index + 2])) or found
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and int(text) > 0 else None
