"""Whether a block ended because the generator that it stands in was left early.

`break`, `next()`, a stream that is closed: then GeneratorExit reaches the generator at its `yield`,
where no call of the driver is under way, and its connection can be rolled back and kept. What else
is no `Exception` may have cut a query short, with its answer still on the wire.
"""

from __future__ import annotations

import dis
import inspect
from types import TracebackType

__all__ = ["left_early"]

_YIELD = dis.opmap.get("YIELD_VALUE")
_RESUME = dis.opmap.get("RESUME")  # from Python 3.11 on: what runs next, and after what
_AFTER_YIELD = 1


def left_early(error: BaseException | None, traceback: TracebackType | None) -> bool:
    """Return whether a block can go on to roll back, though it ends in no `Exception`.

    Arguments: as `__exit__` has them.
    """
    if type(error) is not GeneratorExit or traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    if code.co_flags & inspect.CO_GENERATOR:
        return True
    # At an `await` another thread may be at work on the connection.
    at_await = not _is_at_yield(code.co_code, traceback.tb_lasti)
    return bool(code.co_flags & inspect.CO_ASYNC_GENERATOR) and not at_await


def _is_at_yield(code: bytes, place: int) -> bool:
    """Return whether the instruction there is of a `yield`, not of an `await`."""
    if _RESUME is None:
        return code[place] == _YIELD  # an `await` has another
    for resume in (place, place + 2):  # 3.13 stops at the second of the two
        if code[resume : resume + 1] == bytes((_RESUME,)):
            return code[resume + 1] & 3 == _AFTER_YIELD
    return False
