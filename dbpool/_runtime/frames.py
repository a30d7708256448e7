"""The local variables of frames that an error came through, for those who show or send them.

A page of local variables (Django's with DEBUG, Werkzeug's) and error trackers show what each frame
of a traceback holds. Frames of ours that read a configuration hold the password.
"""

from __future__ import annotations

from types import FrameType, TracebackType

__all__ = ["forget_locals", "is_frame_of_ours", "is_ours"]

_OURS = frozenset(("dbpool", "dbpool_flask", "dbpool_django"))


def forget_locals(error: BaseException) -> None:
    """Empty the frames of ours that an error, and what led to it, came through.

    And those below them, which were given what ours hold. File and line of each stay. A frame that
    still runs keeps its variables: whoever calls this deletes their own.
    """
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            _empty(each.__traceback__)
            left += (each.__cause__, each.__context__)


def is_frame_of_ours(frame: FrameType) -> bool:
    """Return whether a frame runs code of the pool or its adapters."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _OURS


def is_ours(error: BaseException) -> bool:
    """Return whether it was code of the pool or its adapters that raised an error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and is_frame_of_ours(traceback.tb_frame)


def _empty(traceback: TracebackType | None) -> None:
    ours = False
    while traceback is not None:
        frame = traceback.tb_frame
        # The frames above ours are their callers', whose variables are no concern of this.
        ours = ours or is_frame_of_ours(frame)
        if ours:
            try:
                frame.clear()
            except RuntimeError:  # it still runs
                pass
        traceback = traceback.tb_next
