"""What one process of the crowd writes down."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

__all__ = ["Seen"]


@dataclass
class Seen:
    """What one process saw; times are nanoseconds of the machine's monotonic clock."""

    calls: list[array[int]]  # per thread, flat: started, ended, outcome (an index of `outcomes`)
    outcomes: list[str]  # "ok", "wrong token", and the classes of errors
    hung: list[int]  # when the calls started that had not ended GIVE_UP seconds after "stop"
    beats: list[tuple[int, int]]  # when a heartbeat came late, and by how much
    connects: list[int]  # when connects were begun
    capacity: int  # connections that could be had at once at the end
