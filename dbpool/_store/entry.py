"""One open connection as the pool sees it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

from .._runtime.clock import monotonic
from .counters import BOUNDS, bucket

__all__ = ["NEVER", "Entry", "Held"]

NEVER = -math.inf

_TERM = 0.05  # seconds until the next renewal where nothing is handed out without a look

Held = tuple[Any, "Entry"]  # a connection in the pool's hands, and its entry


class Entry(weakref.ref[Any]):
    """A weak reference to a connection, and what the pool knows about it.

    It never holds the connection. While that is idle, the pair in the idle stack does; on its
    way, a local variable; while it is lent, only the borrower. Wherever it is dropped, by a
    borrower that forgets it or by an exception at any point, the interpreter calls `lost` (the
    `put` of a SimpleQueue, which a finaliser may call at any point) with the entry, and the slot
    is free again. Whoever has the connection owns the entry: no field needs a lock.
    """

    __slots__ = (
        "attributes",  # session attributes as the pool wants them back
        "born",
        "expires_at",  # end of life; 0 once drained, shrunk away or closed
        "good_until",  # before this moment it is handed out without a look
        "home",  # whom to tell of its loss
        "key",  # id of the connection
        "holder",  # ident of the thread that borrowed it
        "owner",  # (uses, owner): who answers for the loan numbered `uses`
        "poll",  # `poll` of a poll object on its socket, or None
        "renew_at",  # a return before this moment leaves `good_until` as it is
        "proved_at",  # its last complete round trip; NEVER while it is suspect
        "queued",  # how often lent to one that had to wait
        "since",  # lent, or idle, since then
        "slow",  # uses of 1 ms and longer, by histogram bucket
        "used",  # seconds lent, in all
        "uses",  # how often lent: a float, which counts as exactly and is added to sooner
        "waited",  # seconds that its borrowers had to wait, in all
        "waits",  # waits of 1 ms and longer, by histogram bucket
        "why",  # what ends it at `expires_at`
    )

    def __new__(cls, conn: Any, lost: Callable[[Entry], object] | None, *args: Any) -> Entry:
        return super().__new__(cls, conn, lost)

    def __init__(
        self,
        conn: Any,
        lost: Callable[[Entry], object] | None,
        home: Callable[[], Any],
        poll: Callable[[int], list[tuple[int, int]]] | None,
        now: float,
        expires_at: float,
    ) -> None:
        super().__init__(conn, lost)  # type: ignore[call-arg]
        self.key = id(conn)
        self.home = home
        self.poll = poll
        self.attributes: object = None
        self.born = self.proved_at = self.since = now
        self.expires_at = expires_at
        self.why = "max_lifetime"
        self.good_until = self.renew_at = 0.0
        self.holder = 0
        self.owner: tuple[float, Any] | None = None
        self.uses = 0.0
        self.used = 0.0
        self.slow: list[int] | None = None
        self.queued = 0.0
        self.waited = 0.0
        self.waits: list[int] | None = None

    # A weakref compares and hashes by its referent; an entry is itself, also when that is gone.
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def renew(self, now: float, seconds: float) -> bool:
        """Let it be handed out without a look for `seconds`. False if its life is over.

        Due at a return when half of that is gone: until then the old term will do. Where there is
        none (0 seconds), everything is looked at when it is lent, and this is due now and then.
        """
        self.good_until = min(now + seconds, self.expires_at)
        self.renew_at = min(now + (seconds / 2 or _TERM), self.expires_at)
        # Read again after both are written: a suspicion, drain, resize and close write them the
        # other way. Until it has answered a ping, what is suspect has no credit.
        if self.proved_at == NEVER:
            self.mark_untrusted()
        return now < self.expires_at

    def mark_untrusted(self) -> None:
        """Have it looked at before it is handed out next."""
        self.good_until = self.renew_at = 0.0

    def mark_for_closing(self, why: str) -> None:
        """End its life now: it is closed when next it is idle, or at once by a sweep."""
        if self.expires_at:  # the first reason counts
            self.why = why
        # In this order: a return writes the other two, if it does, and then reads expires_at.
        self.expires_at = 0.0
        self.good_until = 0.0
        self.renew_at = 0.0

    def count_loan(self) -> None:
        """Count a loan that no return has ended; it lasted until now, as far as is known."""
        used = monotonic() - self.since
        self.used += used
        self.observe(used)

    def observe(self, seconds: float) -> None:
        """Count a use of 1 ms or longer; shorter ones are what remains of `uses`."""
        if self.slow is None:
            self.slow = [0] * (len(BOUNDS) + 1)
        self.slow[bucket(seconds)] += 1

    def count_wait(self, seconds: float) -> None:
        """Count the wait of a borrower that had to queue; shorter than 1 ms as in `observe`."""
        self.queued += 1.0
        self.waited += seconds
        if seconds >= 0.001:
            if self.waits is None:
                self.waits = [0] * (len(BOUNDS) + 1)
            self.waits[bucket(seconds)] += 1
