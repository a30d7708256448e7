"""Runs gunicorn so that it never outlives the demo: `python -m testproject.demo.launch PID …`.

The demo ends what it started. Where it is killed before it can, the kernel does it on Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from gunicorn.app.wsgiapp import run

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Get a SIGTERM when the thread that started this process ends. Linux; elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew
        sys.exit("The process that started this one is gone.")


if __name__ == "__main__":
    end_with_parent(int(sys.argv.pop(1)))
    run(prog="gunicorn")
