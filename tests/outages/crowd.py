"""The crowd: processes that call through pools of one kind, from here or another network."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.outages.load import CAPACITY, GIVE_UP
from tests.outages.seen import Seen

__all__ = ["PROCESSES", "SIZE", "THREADS", "Crowd", "NotStarted"]

PROCESSES, THREADS, SIZE = 4, 8, 4
ROOT = Path(__file__).resolve().parents[2]


class NotStarted(RuntimeError):
    """A process of the crowd could not make its pool, which is a finding and no fault of ours."""


class Crowd:
    """Processes at work from `with` to `finish()`.

    Arguments: `pool`, a name of `load.POOLS`; `dsn`, a libpq string; `inside`, the command that
    runs another one in a network namespace, or nothing; `processes`, `threads` and `size`
    of each; `write`, whether the calls write.
    """

    def __init__(
        self,
        pool: str,
        dsn: str,
        *,
        inside: Sequence[str] = (),
        processes: int = PROCESSES,
        threads: int = THREADS,
        size: int = SIZE,
        write: bool = False,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dbpool-crowd-")
        self._command = [*inside, sys.executable, "-m", "tests.outages.load"]
        self._command += ["--pool", pool, "--dsn", dsn]
        self._command += ["--threads", str(threads), "--size", str(size)]
        self._command += ["--write"] if write else []
        self._wanted = processes
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Crowd:
        try:
            for number in range(self._wanted):
                self._processes.append(
                    subprocess.Popen(
                        [*self._command, "--out", str(self._file(number))],
                        cwd=ROOT,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                        bufsize=1,
                    )
                )
            self._expect("ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
        self._folder.cleanup()

    def tell(self, command: str) -> None:
        """Have every pool do what an operator says: "pause", "resume"."""
        self._say(command)
        self._expect("done")

    def finish(self) -> list[Seen]:
        """Stop the callers, and return what each process saw."""
        self._say("stop")
        self._expect("written")
        return [
            pickle.loads(self._file(number).read_bytes()) for number in range(len(self._processes))
        ]

    def _file(self, number: int) -> Path:
        return Path(self._folder.name) / str(number)

    def _say(self, command: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(command + "\n")
            process.stdin.flush()

    def _expect(self, word: str) -> None:
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if word == "ready" != line and line:
                raise NotStarted(f"could not start: {line}")
            if line != word:
                raise RuntimeError(
                    f"a process of the crowd said {line!r} instead of {word!r} "
                    f"(callers get {GIVE_UP + CAPACITY:g} s to come to an end)"
                )
