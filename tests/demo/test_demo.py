"""`python -m testproject.demo`, whole: it balances, and whatever ends it, nothing goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testproject._postgres_guard import processes
from testproject.demo.servers import ROOT
from tests.support.waiting import wait_until


class Demo:
    """A demo that runs, and what it printed so far."""

    def __init__(self, output: Path, *arguments: str) -> None:
        self._output = output
        self._started: set[int] = set()
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "testproject.demo", *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self._output.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it has printed `pattern`."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.text())
            assert match or self.process.poll() is None, self.text()
            return match

        match = wait_until(found, timeout=60.0, message=f"the demo prints {pattern!r}")
        assert match
        return match

    def note_what_it_started(self) -> int:
        """Note the pids of all processes that it started, directly or not; return how many."""
        table = processes()
        found = {self.process.pid}
        while more := {row.pid for row in table if row.parent in found} - found:
            found |= more
        self._started = found - {self.process.pid}
        return len(self._started)

    def left(self) -> dict[int, str]:
        """Return pid and title of those noted that still run."""
        # One that ended and was not waited for has no title any more.
        return {r.pid: r.title for r in processes() if r.pid in self._started and r.title}


@contextmanager
def running_demo(output: Path, *arguments: str) -> Iterator[Demo]:
    demo = Demo(output, *arguments)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.terminate()
        demo.process.wait(timeout=60)
        for pid in demo.left():  # the test has failed already: leave nothing to the next one
            os.kill(pid, signal.SIGKILL)


def test_a_short_demo_balances_and_stops_all_it_started(tmp_path: Path) -> None:
    with running_demo(tmp_path / "output", "--seconds", "3") as demo:
        demo.wait_for("customers in each shop")
        assert (
            demo.note_what_it_started() > 8
        )  # two masters and their workers, PostgreSQL and its own
        assert demo.process.wait(timeout=90) == 0, demo.text()
        assert demo.left() == {}
    text = demo.text()
    assert "The table balances" in text
    assert "ended a session of" in text
    assert re.search(r"/healthz/db answered +200 pass: ", text)
    there = re.search(r"in the database exactly once +(\d+) +(\d+)", text)
    confirmed = re.search(r"orders answered 201 +(\d+) +(\d+)", text)
    assert there
    assert confirmed
    assert there.groups() == confirmed.groups()
    assert all(int(count) > 0 for count in there.groups())


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)]
)
def test_an_interrupted_demo_stops_all_it_started(tmp_path: Path, number: int) -> None:
    with running_demo(tmp_path / "output", "--seconds", "60") as demo:
        demo.wait_for("customers in each shop")
        demo.note_what_it_started()
        demo.process.send_signal(number)
        assert demo.process.wait(timeout=60) == 130
        assert demo.left() == {}
    assert "Traceback" not in demo.text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_a_killed_demo_leaves_nothing_running(tmp_path: Path) -> None:
    with running_demo(tmp_path / "output", "--seconds", "60") as demo:
        demo.wait_for("customers in each shop")
        demo.note_what_it_started()
        demo.process.kill()
        wait_until(lambda: not demo.left(), 60.0, lambda: f"nothing runs: {demo.left()}")


@pytest.mark.exhaustive
def test_a_demo_that_is_kept_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    with running_demo(tmp_path / "output", "--seconds", "1", "--keep") as demo:
        demo.wait_for("stay open until Ctrl-C")
        demo.note_what_it_started()
        for url in re.findall(r"(http://\S+/products) ", demo.text()):
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.status == 200
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(timeout=60) == 0, demo.text()
        assert demo.left() == {}
