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
    from ..pool import ConnectionPool

__all__ = ["SILENCE", "any_alive", "examine", "of"]

LOOK = 1.0  # seconds that a host has to answer where the connect has just failed at once
WORDS = 50  # refusals whose meaning a pool remembers


SILENCE = Answer("connect_timeout", silent=True)


def of(pool: ConnectionPool, attempt: Attempt, error: BaseException) -> Answer:
    """Return what is known of an attempt's failure, wherever in it that was."""
    return attempt.answer or Answer(pool._driver.reason(error))


def examine(
    pool: ConnectionPool,
    error: Exception,
    where: Any,
    timed_out: bool,
    refusal: Callable[[], str | None],
) -> Answer:
    """Find out what the driver's connect has met with; the host may be looked at again.

    Arguments: `where`, the address; `timed_out` and `refusal`, what the driver's methods of these
    names say, the second only if it is asked.
    """
    driver = pool._driver
    reason = driver.reason(error)
    if not isinstance(error, driver.OperationalError):
        return Answer(reason)
    endpoints = driver.endpoints(where)
    if timed_out:
        # The C library may take longer than that to find out that a name does not resolve.
        if not any_alive(pool) or host_probe.resolves(endpoints):
            return SILENCE
        return Answer("dns")
    if reason not in ("connect_failed", "connect_timeout"):
        return Answer(reason)
    words = hash(str(error))
    known: Answer | None = pool._outage.words.get(words)
    if known is None:
        known = _look(endpoints, refusal)
        if not known.silent:  # the next one may find the host well
            if len(pool._outage.words) >= WORDS:
                pool._outage.words.clear()
            pool._outage.words[words] = known
    return known


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


def any_alive(pool: ConnectionPool) -> bool:
    """Return whether a connection is open that has not been seen dead; no round trip.

    Those that are lent included: their sockets are only looked at.
    """
    driver = pool._driver
    for entry in list(pool._store.entries):
        conn = entry()
        if conn is None or (entry.why == "broken" and not entry.expires_at):
            continue
        fd = driver.fileno(conn)
        if fd is None:
            dead = driver.transaction_status(conn) == UNKNOWN
        else:
            # A poll object of its own: the entry's is its borrower's, and refuses to be used twice.
            dead = sockets.look(sockets.poller(fd)) == sockets.DEAD
        if not dead and role.fits(pool, conn):
            return True
    return False
