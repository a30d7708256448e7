"""How the connections of one unit end together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dbpool.drivers.base import INERROR, INTRANS

if TYPE_CHECKING:
    from ._hooks import Unit
    from ._lease import ContextLease
    from ._modes import Mode

__all__ = ["change_mode", "check_ended", "commit_all", "give_back_all"]

logger = logging.getLogger("dbpool.flask")


def commit_all(leases: list[ContextLease], unit: Unit, replica: str | None) -> None:
    """Commit in the order of acquiring; look at all of them before the first commits.

    Arguments: `replica`, the name of one not to commit on: whatever has failed there, nothing is
    lost.
    """
    if replica is not None:
        leases = [lease for lease in leases if lease.name != replica]
    checked = []
    for lease in leases:
        checked.append((lease, lease.check()))
    done: list[str] = []
    for lease, status in checked:
        try:
            lease.commit_checked(status)
        except Exception as error:
            if done:
                unit.committed(done)
                note = (
                    f"the commit on {lease.name!r} failed after {', '.join(map(repr, done))} had "
                    "been committed: what was written there stays"
                )
                logger.error("%s", note)
                if hasattr(error, "add_note"):
                    error.add_note(note)
            raise
        done.append(lease.name)


def change_mode(leases: list[ContextLease], mode: Mode, replica: str | None) -> None:
    """Have the view's mode count on connections that were taken, and committed, before it.

    By the session or a URL converter: these query before the URL is matched with a view.
    """
    for lease in leases:
        lease.rollback()  # a replica's, which is never committed
        if lease.lost:
            continue
        if mode.autocommit:
            lease.set_autocommit()
        if mode.read_only and lease.name != replica:
            lease.make_read_only()


def check_ended(leases: list[ContextLease], autocommit: bool) -> None:
    """Raise TransactionAborted if something is open that nobody is going to commit.

    For requests whose end does not commit: there each statement does (`autocommit`), or the app.
    No round trip.
    """
    for lease in leases:
        lease.check_left()
        if autocommit and not lease.lost and lease.status() in (INTRANS, INERROR):
            raise lease.aborted(
                "a BEGIN in autocommit mode was not followed by a COMMIT or ROLLBACK"
            )


def give_back_all(leases: list[ContextLease], torn: bool) -> None:
    """Roll back what is open and return them; `torn` as in `ContextLease.give_back`."""
    # Popped one by one: if something strikes in between, dropping the rest frees their slots.
    while leases:
        lease = leases.pop()
        try:
            lease.give_back(torn)
        except Exception:
            # The answer is decided: a committed request must not turn into an error by this.
            logger.exception("a connection could not be returned to pool %r", lease.pool.name)
