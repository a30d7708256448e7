"""Whether an error gives a secret away: by its text, its object, or the frames it came through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import FrameType

__all__ = ["chain", "frames", "leaks"]

TESTS = str(Path(__file__).parents[1])


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and whatever led to it, suppressed contexts included."""
    left, seen = [error], set()
    while left:
        error = left.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            left += (error.__cause__, error.__context__)


def frames(error: BaseException | None) -> Iterator[FrameType]:
    """Yield the frames that a page of local variables shows, but those of the tests."""
    for each in chain(error):
        traceback = each.__traceback__
        while traceback is not None:
            if not traceback.tb_frame.f_code.co_filename.startswith(TESTS):
                yield traceback.tb_frame
            traceback = traceback.tb_next


def leaks(error: BaseException | None, secret: str) -> list[str]:
    """Return where a secret stands in an error; empty if nowhere."""
    found = []
    for each in chain(error):
        if secret in f"{each} {each!r} {each.args!r} {vars(each)!r}":
            found.append(f"the {type(each).__name__} itself")
    for frame in frames(error):
        where = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}"
        for name, value in frame.f_locals.items():
            if secret in repr(value):
                found.append(f"{where}: {name}")
    return found
