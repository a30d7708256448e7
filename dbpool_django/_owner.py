"""Who answers for a lent connection: a wrapper, and the thread that uses it."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._wrapper import PooledWrapper

__all__ = ["Owner"]


class Owner:
    """Tells the pool whether a borrower can still give its connection back.

    A thread that ended without `close()`, an ASGI client that went away and a killed greenlet leave
    nobody who would. Both references are weak: the pool must not keep a thread's data alive.
    """

    __slots__ = ("_wrapper", "thread")

    def __init__(self, wrapper: PooledWrapper, thread: threading.Thread) -> None:
        self._wrapper = weakref.ref(wrapper)
        self.thread = weakref.ref(thread)  # idents are reused, objects are not

    def is_alive(self) -> bool:
        """Return False if the connection will never be given back. Any thread may ask."""
        wrapper = self._wrapper()
        if wrapper is None:
            return False
        thread = self.thread()
        if thread is not None and (
            # A thread that Python did not start says nothing of its end.
            isinstance(thread, threading._DummyThread) or thread.is_alive()
        ):
            return True
        # A live test server's wrapper belongs to several threads; it outlives each of them.
        return wrapper.allow_thread_sharing

    def forked(self) -> None:
        """Have the wrapper let go, in a forked child, of what is the parent process's."""
        wrapper = self._wrapper()
        if wrapper is not None:
            wrapper._dbpool_start_in_child()
