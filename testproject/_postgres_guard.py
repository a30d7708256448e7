"""Ends a server's processes and removes its directory, however the process that started it ends.

The runner keeps the write end of a pipe; a small process of its own waits at the read end. The
kernel closes the pipe whatever happens to the runner, kill -9 included, and only then the guard
acts. Tidying up in the ordinary case is the same: the runner closes the pipe and waits. So there
is one way to end a server, on Linux and macOS alike, and a frozen server is no special case.

The guard keeps no list that could grow stale: it looks for the processes that name the directory.
Standard library only, because this file is also run as a script, without the site-packages.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Guard", "Process", "processes", "send"]

# An immediate shutdown takes 20 ms; postgres itself kills children that linger after 5 s.
QUIT_SECONDS = 8.0


class Guard:
    """Guards one server directory. Not for use by two threads at once."""

    def __init__(self, directory: str) -> None:
        self._reader, self._writer = os.pipe()
        self._process = subprocess.Popen(
            # -I -S: starts in 15 ms and imports nothing from the working directory.
            [sys.executable, "-I", "-S", os.path.abspath(__file__), directory],
            stdin=self._reader,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C at the terminal is for the runner alone
        )
        os.close(self._reader)
        _guards.add(self)

    def release(self) -> None:
        """End the directory's processes, remove it, and return when that is done."""
        self._drop_pipe()
        self._process.wait()

    def _drop_pipe(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _drop_pipes_in_child() -> None:
    # A forked child that lives on would hold the pipe open, and its parent's server up.
    for guard in list(_guards):
        guard._drop_pipe()


os.register_at_fork(after_in_child=_drop_pipes_in_child)


class Process(NamedTuple):
    """One row of the process table."""

    pid: int
    parent: int
    title: str  # the command line, or what a backend wrote over it; empty for a zombie


def processes() -> list[Process]:
    """Return the process table: from /proc (slim images have no ps), elsewhere from ps."""
    if not os.path.isdir("/proc/self"):
        return _processes_by_ps()
    rows = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as stat, open(f"/proc/{name}/cmdline", "rb") as c:
                # The second field is the program's name in brackets and may contain brackets.
                parent = int(stat.read().rpartition(b")")[2].split()[1])
                title = os.fsdecode(c.read()).replace("\0", " ").strip()
        except OSError:
            continue  # it ended meanwhile
        rows.append(Process(int(name), parent, title))
    return rows


def _processes_by_ps() -> list[Process]:
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    fields = (line.split(None, 2) for line in listing.splitlines())
    return [Process(int(f[0]), int(f[1]), f[2].strip()) for f in fields if len(f) == 3]


def _processes_of(directory: str) -> tuple[list[int], list[int]]:
    """Return (programs running on the directory's files, everything below them)."""
    table = processes()
    # The server, and a PgBouncer that a test has put before it.
    names = (f"-D {os.path.join(directory, 'data')}", os.path.join(directory, "pgbouncer-"))
    roots = [row.pid for row in table if any(name in row.title for name in names)]
    found = set(roots)
    below: list[int] = []
    while fresh := [row.pid for row in table if row.parent in found and row.pid not in found]:
        below += fresh
        found.update(fresh)
    return roots, below


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to those of the processes that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _end(directory: str) -> None:
    """End the server: at once but in order (it frees its shared memory), by force if need be."""
    roots, below = _processes_of(directory)
    send(below + roots, signal.SIGCONT)  # a stopped process heeds SIGKILL alone
    send(roots, signal.SIGQUIT)
    until = time.monotonic() + QUIT_SECONDS
    while roots and time.monotonic() < until:
        time.sleep(0.005)
        roots, below = _processes_of(directory)
    send(below + roots, signal.SIGKILL)


def _remove(directory: str) -> None:
    # A program that dies this moment may still write: hence more than one try.
    for _ in range(50):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            return
        time.sleep(0.05)


def _main(directory: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    _end(directory)
    _remove(directory)


if __name__ == "__main__":
    _main(sys.argv[1])
