"""What a connection must be like when it goes back: no transaction, its settings, the reset."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .._runtime.time_limit import Guard
from ..drivers.base import IDLE, INERROR, INTRANS

if TYPE_CHECKING:
    from .._store.entry import Entry
    from ..pool import ConnectionPool
    from .session import SessionWatch

__all__ = ["clean", "clean_session", "roll_back", "tidy"]

logger = logging.getLogger("dbpool.pool")


def roll_back(pool: ConnectionPool, conn: Any) -> bool:
    """Roll back what is open, within the pool's deadline. True if the connection is of no use."""
    status = pool._driver.transaction_status(conn)
    if status in (INTRANS, INERROR):
        try:
            with Guard(pool, conn, pool._ping_timeout):
                pool._driver.rollback(conn)
        except Exception:
            return True
        pool.note_success()
        status = pool._driver.transaction_status(conn)
    return bool(status != IDLE)


def tidy(pool: ConnectionPool, entry: Entry, conn: Any) -> bool:
    """Leave no transaction and no changed setting behind. False if the connection is no good."""
    # A query or COPY in flight, or a broken link: an answer may still be on the wire.
    if roll_back(pool, conn):
        return False
    if not pool._settled(conn, entry.attributes):
        try:
            with Guard(pool, conn, pool._ping_timeout):
                pool._driver.restore(conn, entry.attributes)
        except Exception:
            return False
    return pool._settled(conn, entry.attributes)


def clean(pool: ConnectionPool, entry: Entry, conn: Any, reset: Any) -> bool:
    """Clean the session as `reset` says. False if that failed or left something open.

    Arguments: `conn`, tidied; `reset`, as the option has it, None being "rollback".
    """
    if reset is None:
        return True
    try:
        with Guard(pool, conn, pool._ping_timeout):
            if reset == "discard":
                pool._driver.discard_session(conn)
                if pool._configure is not None:
                    pool._configure(conn)
            else:
                reset(conn)
    except Exception as error:
        _warn_of_reset(pool, f"failed with {type(error).__name__}")
        return False
    if pool._driver.transaction_status(conn) != IDLE:
        _warn_of_reset(pool, "left a transaction open")
        return False
    return tidy(pool, entry, conn)


def _warn_of_reset(pool: ConnectionPool, what: str) -> None:
    logger.warning("pool %r: reset %s; the connection is replaced", pool.name, what)


def clean_session(pool: ConnectionPool, conn: Any, watch: SessionWatch) -> bool:
    """Make the session of a lent connection as it was when it was opened.

    The connection is not in a transaction. Returns False if that did not succeed, or cannot: then
    it is of no further use. Bounded by `ping_timeout`; raises nothing.
    """
    entry = pool._store.in_use.get(id(conn))
    return (
        entry is not None
        and not watch.spoilt(conn)
        and tidy(pool, entry, conn)
        and clean(pool, entry, conn, "discard")
    )
