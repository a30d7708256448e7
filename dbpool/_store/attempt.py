"""One connect under way, and what is known of one that has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .._runtime.clock import monotonic

if TYPE_CHECKING:
    from ..drivers.base import Mistake

__all__ = ["CHECK_FAILED", "OVERRUN", "Answer", "Attempt", "Failure"]

CHECK_FAILED = "check_failed"  # a Failure's reason where connecting itself went well
OVERRUN = 2.0  # seconds past connect_timeout (name resolution) after which one is given up


class Answer(NamedTuple):
    """What came back for a connect that failed: the word for it, of drivers.base.REASONS."""

    reason: str
    silent: bool = False  # nothing did
    unclear: bool = False  # a refusal did, and nobody here understands it


class Attempt:
    """A connect under way. It occupies a slot for as long as somebody holds it.

    The pool itself keeps only a weak reference, so a thread that dies of any exception at any
    point gives the slot back.
    """

    __slots__ = (
        "__weakref__",
        "answer",
        "arrived",
        "in_callback",
        "made_by",
        "mistake",
        "overdue_at",
        "since",
        "unwanted",
    )

    def __init__(self, now: float, connect_timeout: float) -> None:
        self.answer: Answer | None = None  # what is known of its failure
        self.arrived = False  # its connection is one of the pool's, and on its way to a caller
        self.in_callback = ""  # which of the user's callables is at work
        self.mistake: Mistake | None = None  # what is wrong with what it is made with
        self.made_by = 0  # ident of the thread that is at it
        self.unwanted = ""  # why its connection is to be closed on arrival
        self.since = now
        self.overdue_at = now + connect_timeout + OVERRUN

    def allow(self, seconds: float) -> None:
        """Be overdue no sooner than that from now on, and the usual allowance."""
        self.overdue_at = max(self.overdue_at, monotonic() + seconds + OVERRUN)


class Failure:
    """Why connecting failed, as a waiter is told; each raises an exception of its own."""

    __slots__ = ("at", "error", "mistake", "reason", "silent", "unclear")

    def __init__(
        self,
        error: BaseException,
        reason: str,
        mistake: Mistake | None = None,
        *,
        silent: bool = False,
        unclear: bool = False,
    ) -> None:
        self.at = monotonic()
        self.error = error
        self.reason = reason
        self.mistake = mistake  # of the configuration: it says nothing about the server
        self.silent = silent  # whether nothing has answered
        self.unclear = unclear  # whether something has, in words that nobody here understands
