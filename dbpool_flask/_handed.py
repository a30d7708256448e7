"""What a method of the driver's hands out to be run later: a generator, or a `with` block.

psycopg 3's `notifies`, `transaction` and `pipeline`, or sqlite3's `iterdump`, use the connection
when they are run, and not when they are made. By then it may serve somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ContextDecorator
from types import GeneratorType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._lease import ContextLease

__all__ = ["fenced"]


def fenced(result: Any, lease: ContextLease, hand_out: Callable[[Any], Any]) -> Any:
    """Return what a method of the driver's has returned, fenced if it is such a thing.

    Arguments: `hand_out`, which is given what a generator yields: it may be a cursor.
    """
    if isinstance(result, GeneratorType):
        return _generate(result, lease, hand_out)
    if isinstance(result, ContextDecorator):  # what @contextmanager makes
        return _Block(result, lease)
    return result


def _generate(
    results: Iterator[Any], lease: ContextLease, hand_out: Callable[[Any], Any]
) -> Iterator[Any]:
    """Yield what a generator of the driver's does; each step is a use of the connection."""
    try:
        while True:
            lease.raw()
            lease.enter()
            try:
                result = next(results)
            except StopIteration:
                return
            finally:
                lease.leave()
            yield hand_out(result)
    except Exception as error:
        lease.note_error(error)
        raise


class _Block:
    """A block of the driver's, such as psycopg 3's `transaction`; its `with` gives the driver's."""

    __slots__ = ("_block", "_lease")

    def __init__(self, block: Any, lease: ContextLease) -> None:
        self._block = block
        self._lease = lease

    def __enter__(self) -> Any:
        self._lease.raw()
        try:
            return self._block.__enter__()
        except Exception as error:
            self._lease.note_error(error)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        if error is None:
            self._lease.raw()
        elif self._lease.conn is None:
            return None  # the error that leaves the block says more
        try:
            return self._block.__exit__(kind, error, traceback)
        except Exception as failed:
            self._lease.note_error(failed)
            raise
