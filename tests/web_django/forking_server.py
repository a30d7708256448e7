"""Starts the process of each test of a Django project by a fork, with the imports done.

Half of the processor's time for such a test would go into imports. This process has made those that
are the same for all: pytest, Django, the drivers. It does not configure Django, it has one thread
and no connection; and it imports nothing of dbpool, which begins in each test's own process.

    python -m tests.web_django.forking_server       reads requests, a line of JSON each; the answers
                                                    are the child's pid, and later its exit status
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["ForkingServer", "Result"]

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds
IMPORTS = (
    "pytest", "_pytest.python", "_pytest.assertion.rewrite", "_pytest.doctest", "_pytest.junitxml",
    "psycopg2.extras", "psycopg2.extensions", "psycopg", "concurrent.futures",
    "django.apps", "django.core.checks", "django.core.handlers.wsgi", "django.core.management",
    "django.core.signals", "django.db", "django.db.models", "django.http", "django.test.client",
    "django.db.backends.postgresql.base", "django.urls", "django.utils.timezone", "logging.config",
)  # fmt: skip


class Result(NamedTuple):
    """How a run of pytest ended, and all that it printed."""

    status: int
    output: str


class ForkingServer:
    """The process that forks; not for use by two threads at once."""

    def __init__(self) -> None:
        environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environ.pop("DJANGO_SETTINGS_MODULE", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.web_django.forking_server"],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: Sequence[str], environ: Mapping[str, str]) -> Result:
        """Run pytest in a process of its own, with these variables besides ours."""
        assert self._process.stdin is not None
        with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as output:
            request = {"arguments": arguments, "environ": environ, "output": output.name}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            child = self._answer()
            try:
                status = self._answer()
            except BaseException:  # a timeout of the test outside, or Ctrl-C
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                self._answer()
                raise
            return Result(status, output.read())

    def close(self) -> None:
        """End the process, though somebody else may still hold the other end of its pipe."""
        try:
            self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The forking server has ended with {self._process.wait()}.")
        return int(line)


def _serve() -> int:
    for name in IMPORTS:
        with contextlib.suppress(ModuleNotFoundError):  # not each environment has each driver
            importlib.import_module(name)
    assert not any(name.partition(".")[0].startswith("dbpool") for name in sys.modules)
    gc.freeze()  # else each child's first collection copies all that
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if not child:
            return _run(**request)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return 0


def _run(arguments: list[str], environ: dict[str, str], output: str) -> int:
    """Be the process of one test."""
    import pytest

    with open(os.devnull) as nothing, open(output, "w") as said:
        os.dup2(nothing.fileno(), 0)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ.update(environ)
    sys.argv = ["pytest", *arguments]
    return int(pytest.main(arguments))


if __name__ == "__main__":
    sys.exit(_serve())
