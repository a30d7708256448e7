"""Running the tests in a copy of the tree, with a mistake in it and without."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.mutants.files import ROOT, tests_for
from tests.mutants.places import Mistake

COPIED = ("dbpool", "dbpool_flask", "dbpool_django", "tests", "testproject", "benchmarks", "docs")
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile", "noxfile.py")
QUICK = ("-x", "-q", "--no-header", "-m", "not long and not computes", "-p", "no:cacheprovider")
TO_STOP = 20.0  # seconds for a run to stop its servers when it is interrupted

_running: set[subprocess.Popen[bytes]] = set()
# Python takes bytecode for that of a source by time and size; a mistake may change neither.
_times = itertools.count(1_000_000_000)


class Run(NamedTuple):
    """What came of one run of the tests."""

    passed: bool
    by: str  # the test that failed, or what else ended the run
    seconds: float


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


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    now = next(_times)
    os.utime(path, (now, now))


def _what_failed(output: str, code: int) -> str:
    found = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - |$)", output, re.MULTILINE)
    return found[1] if found else f"pytest ended with {code}"


def run(copy: Path, files: list[str], seconds: float) -> Run:
    """Run test files in a copy until the first failure, for at most so many seconds."""
    environ = {**os.environ, "PYTHONPATH": str(copy)}
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *QUICK, *files], cwd=copy, env=environ,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        _running.add(process)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            stop(process)
            return Run(False, f"no end after {seconds:.0f} s", time.monotonic() - began)
        finally:
            _running.discard(process)
            _end_rest(process)
        output.seek(0)
        by = "" if code == 0 else _what_failed(output.read().decode(errors="replace"), code)
    return Run(code == 0, by, time.monotonic() - began)


def _end_rest(process: subprocess.Popen[bytes]) -> None:
    """End what a run has left: a forked child that hangs in a mistake, say."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # as a rule
        pass


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a run: by Ctrl-C, so that it stops its servers, or else with all in its session."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(TO_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stop_all() -> None:
    """End the runs that are under way."""
    for process in tuple(_running):
        stop(process)


def try_out(mistake: Mistake, queue: SimpleQueue[Path], seconds: float) -> Run:
    """Return what the tests say that should see a mistake."""
    copy = queue.get()
    before, after = mistake.text()
    there = copy / mistake.module.relative_to(ROOT)
    try:
        _write(there, after)
        return run(copy, tests_for(mistake.module), seconds)
    finally:
        _write(there, before)
        queue.put(copy)
