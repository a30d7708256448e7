"""Which errors say "not now, come again", and when: what an adapter answers with a 503."""

from __future__ import annotations

import math
from typing import Final

from ..errors import PoolDown, PoolError, PoolOverloaded, PoolTimeout, TooManyRequests

__all__ = ["UNAVAILABLE", "retry_after"]

# Nothing is wrong with the request, and nothing was done for it. Not ConnectFailed and PoolClosed,
# which do not pass by themselves.
UNAVAILABLE: Final = (PoolTimeout, PoolOverloaded, TooManyRequests)  # the first includes PoolDown


def retry_after(error: PoolError) -> int:
    """Return the seconds of a Retry-After header: whole ones, as HTTP has it, and at least 1."""
    seconds = 0.0
    if isinstance(error, PoolDown):
        seconds = error.next_attempt
    elif isinstance(error, PoolOverloaded):
        seconds = error.retry_after
    return max(1, math.ceil(seconds))
