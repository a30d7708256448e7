"""Answer or silence: whether anything came back for a connect that failed, and what is alive.

Nothing here hangs on a text, which comes in the language of the server, the pooler or the C
library. Silence is told by the time that a connect took, or by a look at the host. What a refusal
means is told by its SQLSTATE: at a connect no driver has that, so where the words are not known
the driver connects once more and asks for it. The words that the driver knows save that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._runtime import host_probe, sockets
from .._store.attempt import Answer
from ..drivers.base import UNKNOWN
from . import role

if TYPE_CHECKING:
    from .._store.attempt import Attempt
    from .._store.inventory import Inventory

__all__ = ["SILENCE", "Replies"]

LOOK = 1.0  # seconds that a host has to answer where the connect has just failed at once
WORDS = 50  # refusals whose meaning a pool remembers


SILENCE = Answer("connect_timeout", silent=True)


class Replies:
    """What one pool makes of what its server answers.

    Arguments: `role`, the option of the pool.
    """

    def __init__(self, store: Inventory, role: str | None) -> None:
        self._store = store
        self._driver = store.driver
        self._role = role
        self._words: dict[int, Answer] = {}  # what refusals mean, by the hash of their texts

    def of(self, attempt: Attempt, error: BaseException) -> Answer:
        """Return what is known of an attempt's failure, wherever in it that was."""
        return attempt.answer or Answer(self._driver.reason(error))

    def examine(
        self, error: Exception, where: Any, timed_out: bool, refusal: Callable[[], str | None]
    ) -> Answer:
        """Find out what the driver's connect has met with; the host may be looked at again.

        Arguments: `where`, the address; `timed_out` and `refusal`, what the driver's methods of
        these names say, the second only if it is asked.
        """
        driver = self._driver
        reason = driver.reason(error)
        if not isinstance(error, driver.OperationalError):
            return Answer(reason)
        endpoints = driver.endpoints(where)
        if timed_out:
            # The C library may take longer than that to find out that a name does not resolve.
            if not self.any_alive() or host_probe.resolves(endpoints):
                return SILENCE
            return Answer("dns")
        if reason not in ("connect_failed", "connect_timeout"):
            return Answer(reason)
        words = hash(str(error))
        known = self._words.get(words)
        if known is None:
            known = _look(endpoints, refusal)
            if not known.silent:  # the next one may find the host well
                if len(self._words) >= WORDS:
                    self._words.clear()
                self._words[words] = known
        return known

    def any_alive(self) -> bool:
        """Return whether a connection is open that has not been seen dead; no round trip.

        Those that are lent included: their sockets are only looked at.
        """
        driver = self._driver
        for entry in list(self._store.entries):
            conn = entry()
            if conn is None or (entry.why == "broken" and not entry.expires_at):
                continue
            fd = driver.fileno(conn)
            if fd is None:
                dead = driver.transaction_status(conn) == UNKNOWN
            else:
                # A poll object of its own: the entry's is its borrower's, and refuses to be used
                # twice.
                dead = sockets.look(sockets.poller(fd)) == sockets.DEAD
            if not dead and role.fits(driver, self._role, conn):
                return True
        return False


def _look(endpoints: list[tuple[str, str]], refusal: Callable[[], str | None]) -> Answer:
    """Find out what the words that the driver did not know are about."""
    met = host_probe.met(endpoints, LOOK)
    if met == host_probe.SILENCE:
        return SILENCE
    if met == host_probe.NO_NAME:
        return Answer("dns")
    if met == host_probe.REFUSED:
        return Answer("connect_refused")
    try:
        word = refusal()
    except TimeoutError:
        return SILENCE
    return Answer(word or "connect_failed", unclear=word == "connect_failed")
