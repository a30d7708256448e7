"""Write down each connection that the pools of this process open and close.

The pools log these at level DEBUG on the logger `dbpool.pool`, as attributes of the record. One
file per process and one JSON object per line, so that any reader can merge them by time.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path


class EventFile(logging.Handler):
    def __init__(self, folder: str) -> None:
        super().__init__()
        path = Path(folder) / f"{os.getpid()}.jsonl"
        self._file = path.open("a", buffering=1)  # by lines: readers see whole ones

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "dbpool_event", None)
        if event is None:
            return
        line = {
            "time": time.monotonic(),  # one clock for all processes of a host
            "pid": os.getpid(),
            "pool": getattr(record, "dbpool_pool", ""),
            "event": event,
            "open": getattr(record, "dbpool_open", None),
        }
        self._file.write(json.dumps(line) + "\n")


def record(folder: str) -> None:
    """Record the events of this process in `folder` from now on."""
    logger = logging.getLogger("dbpool.pool")
    logger.addHandler(EventFile(folder))
    logger.setLevel(logging.DEBUG)
