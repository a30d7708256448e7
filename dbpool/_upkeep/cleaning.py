"""What a connection must be like when it goes back: no transaction, its settings, the reset."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..drivers.base import IDLE, INERROR, INTRANS
from .session import SessionWatch

if TYPE_CHECKING:
    from .._runtime.runner import Runner
    from .._runtime.time_limit import TimeLimit
    from .._store.entry import Entry
    from .._store.inventory import Inventory
    from .._store.settings import Settings

__all__ = ["Cleaner"]

logger = logging.getLogger("dbpool.pool")


class Cleaner:
    """Makes a connection of one pool what the next borrower expects. Any thread may use it."""

    def __init__(self, store: Inventory, settings: Settings, runner: Runner) -> None:
        self.store = store
        self._settled = store.driver.settled
        self._configure = settings.configure
        self._seconds = settings.ping_timeout
        self._runner = runner

    def limit(self, conn: Any) -> TimeLimit:
        """Return a context manager that bounds an operation of the pool's own."""
        return self._runner.limit(self.store.driver, conn, self._seconds)

    def roll_back(self, conn: Any) -> bool:
        """Roll back what is open, within a limit. True if the connection is of no use."""
        status = self.store.driver.transaction_status(conn)
        if status in (INTRANS, INERROR):
            try:
                with self.limit(conn):
                    self.store.driver.rollback(conn)
            except Exception:
                return True
            self.store.note_success()
            status = self.store.driver.transaction_status(conn)
        return bool(status != IDLE)

    def restore(self, entry: Entry, conn: Any) -> bool:
        """Leave no transaction and no changed setting. False if the connection is no good."""
        # A query or COPY in flight, or a broken link: an answer may still be on the wire.
        if self.roll_back(conn):
            return False
        if not self._settled(conn, entry.attributes):
            try:
                with self.limit(conn):
                    self.store.driver.restore(conn, entry.attributes)
            except Exception:
                return False
        return self._settled(conn, entry.attributes)

    def reset(self, entry: Entry, conn: Any, how: Any) -> bool:
        """Clean the session as `how` says. False if that failed or left something open.

        Arguments: `conn`, restored; `how`, as the option has it, None being "rollback" and a
        watch "auto".
        """
        if how is None:
            return True
        if isinstance(how, SessionWatch):  # "auto"
            if not how.changed(conn):
                return True
            if how.spoilt(conn):
                return False
            how = "discard"
        try:
            with self.limit(conn):
                if how == "discard":
                    self.store.driver.discard_session(conn)
                    if self._configure is not None:
                        self._configure(conn)
                else:
                    how(conn)
        except Exception as error:
            self._warn_of_reset(f"failed with {type(error).__name__}")
            return False
        if self.store.driver.transaction_status(conn) != IDLE:
            self._warn_of_reset("left a transaction open")
            return False
        return self.restore(entry, conn)

    def _warn_of_reset(self, what: str) -> None:
        logger.warning("pool %r: reset %s; the connection is replaced", self.store.name, what)

    def clean_session(self, conn: Any, watch: SessionWatch) -> bool:
        """Make the session of a lent connection as it was when it was opened.

        The connection is not in a transaction. Returns False if that did not succeed, or cannot:
        then it is of no further use. Bounded by `ping_timeout`; raises nothing.
        """
        entry = self.store.entry_of(conn)
        return (
            entry is not None
            and not watch.spoilt(conn)
            and self.restore(entry, conn)
            and self.reset(entry, conn, "discard")
        )
