"""The SQLSTATE of a refused connect, which neither driver has: a second connect asks for it.

What the server says comes in its own language, and libpq puts the code into its text only where it
has been told so before the answer is there. libpq's documentation, "Control Functions":
PQERRORS_SQLSTATE leaves the severity and the code of a server's error, and nothing else.
"""

from __future__ import annotations

import ctypes
import functools
import re
import selectors
from collections.abc import Callable

from .._runtime.clock import monotonic

__all__ = ["READING", "SECONDS", "WRITING", "refusal"]

READING, WRITING = 1, 2  # what a connect waits for, as both drivers number it

SECONDS = 2.0  # that the second connect may take: the first one has just been refused

_SQLSTATE_ALONE = 3  # PQERRORS_SQLSTATE, of libpq 12
_CODE = re.compile(r":\s+(?=[0-9A-Z]*[0-9])([0-9A-Z]{5})\s*$", re.MULTILINE)


@functools.cache
def _set_verbosity(path: str) -> Callable[[int, int], int]:
    """Return the function of libpq as the extension module at `path` has loaded it."""
    function = ctypes.CDLL(path).PQsetErrorVerbosity
    function.argtypes = [ctypes.c_void_p, ctypes.c_int]
    function.restype = ctypes.c_int
    return function


def refusal(
    path: str,
    pgconn: int | None,
    fileno: Callable[[], int],
    step: Callable[[], int],
    errors: type[Exception],
) -> str | None:
    """Go on with a connect that has just begun; return the code that it is refused with.

    Arguments: `path`, the file of an extension module that is linked with libpq; `pgconn`, the
    address of the PGconn; `fileno`, its socket at the moment; `step`, which goes on and returns
    READING, WRITING, or something else once it is connected, and raises one of `errors`. None if
    it is not refused, or not by a server. Raises TimeoutError if nothing answers in time.
    """
    try:
        _set_verbosity(path)(pgconn or 0, _SQLSTATE_ALONE)
    except (OSError, AttributeError):  # an extension that is built in some other way
        return None
    end = monotonic() + SECONDS
    try:
        while (wants := step()) in (READING, WRITING):
            if (left := end - monotonic()) <= 0:
                raise TimeoutError(f"no answer within {SECONDS:g} s")
            with selectors.DefaultSelector() as selector:
                event = selectors.EVENT_READ if wants == READING else selectors.EVENT_WRITE
                selector.register(fileno(), event)
                selector.select(left)
    except errors as error:
        codes = _CODE.findall(str(error))
        return codes[-1] if codes else None
    return None
