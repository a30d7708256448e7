"""Ending a statement from another thread, without holding the GIL while the network is dead.

Both drivers' own `cancel()` keep the GIL until the server has answered, or for ever. So libpq is
called by ctypes, which lets go of it: the very library that the driver has loaded. libpq's
documentation, "Canceling Queries in Progress": PQgetCancel takes what is needed off the connection,
PQcancel may then be called by any thread, also after the connection is gone.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["canceller"]

_ERROR_SIZE = 256  # what libpq advises for the text that it writes


@functools.cache
def _libpq(path: str) -> ctypes.CDLL:
    """Return libpq as the extension module at `path` has loaded it."""
    library = ctypes.CDLL(path)
    library.PQgetCancel.argtypes = [ctypes.c_void_p]
    library.PQgetCancel.restype = ctypes.c_void_p
    library.PQcancel.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    library.PQcancel.restype = ctypes.c_int
    library.PQfreeCancel.argtypes = [ctypes.c_void_p]
    library.PQfreeCancel.restype = None
    return library


def canceller(path: str, connection: int | None) -> Callable[[], None] | None:
    """Return what asks the server to end the statement that runs on a connection.

    Arguments: `path`, the file of an extension module that is linked with libpq; `connection`, the
    address of its PGconn. None if there is nothing to cancel with. The function returned blocks
    for as long as a connect may, and raises nothing; call it once.
    """
    if not connection:
        return None
    try:
        libpq = _libpq(path)
    except (OSError, AttributeError):  # an extension that is built in some other way
        return None
    cancel = libpq.PQgetCancel(connection)
    if not cancel:
        return None

    def ask() -> None:
        try:
            libpq.PQcancel(cancel, ctypes.create_string_buffer(_ERROR_SIZE), _ERROR_SIZE)
        finally:
            libpq.PQfreeCancel(cancel)

    return ask
