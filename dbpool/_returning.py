"""What happens to a connection on its way back: its transaction, its settings, the reset."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from ._keeper import Guard
from .drivers.base import IDLE, INERROR, INTRANS
from .errors import TransactionAborted

if TYPE_CHECKING:
    from ._entry import Entry
    from .pool import ConnectionPool

__all__ = ["accept", "commit", "finish", "roll_back", "tidy"]

logger = logging.getLogger("dbpool.pool")

_STATES = {INTRANS: "an open transaction", INERROR: "a failed transaction"}


def accept(pool: ConnectionPool, entry: Entry, conn: Any, close: bool) -> bool:
    """Take back a connection that is not simply idle. False if it had to be closed."""
    keep = False
    reason = "returned_closed"
    try:
        if not close:
            _warn_of_stranger(pool, entry)
            state = _STATES.get(pool._driver.transaction_status(conn))
            if state:
                logger.warning(
                    "pool %r: a connection came back in %s; rolled back", pool.name, state
                )
            reason = "broken"
            keep = tidy(pool, entry, conn) and _reset(pool, entry, conn)
    finally:
        if not keep:
            if not close:
                with pool._lock:
                    pool._totals.returns_bad += 1
            pool._retire(entry, conn, reason)
    return keep


def tidy(pool: ConnectionPool, entry: Entry, conn: Any) -> bool:
    """Leave no transaction and no changed setting behind. False if the connection is no good."""
    # A query or COPY in flight, or a broken link: an answer may still be on the wire.
    if roll_back(pool, conn):
        return False
    if not pool._settled(conn, entry.attributes):
        try:
            with Guard(pool._driver, conn, pool._ping_timeout):
                pool._driver.restore(conn, entry.attributes)
        except Exception:
            return False
    return pool._settled(conn, entry.attributes)


def _reset(pool: ConnectionPool, entry: Entry, conn: Any) -> bool:
    """Clean the session as `reset` says. False if that failed or left something open."""
    reset = pool._reset
    if reset is None:
        return True
    try:
        with Guard(pool._driver, conn, pool._ping_timeout):
            if reset == "discard":
                pool._driver.discard_session(conn)
                if pool._configure is not None:
                    pool._configure(conn)
            else:
                reset(conn)
    except Exception:
        logger.warning(
            "pool %r: reset failed; the connection is replaced", pool.name, exc_info=True
        )
        return False
    if pool._driver.transaction_status(conn) != IDLE:
        logger.warning(
            "pool %r: reset left a transaction open; the connection is replaced", pool.name
        )
        return False
    return tidy(pool, entry, conn)


def _warn_of_stranger(pool: ConnectionPool, entry: Entry) -> None:
    """Warn of a return by a thread that is not the holder while the holder lives."""
    if entry.holder == threading.get_ident() or entry.owner is not None:
        return
    for thread in threading.enumerate():
        if thread.ident == entry.holder:
            logger.warning(
                "pool %r: thread %r returned a connection that thread %r borrowed and may still "
                "be using",
                pool.name,
                threading.current_thread().name,
                thread.name,
            )


def finish(pool: ConnectionPool, conn: Any, error: BaseException | None) -> None:
    """End a `with pool.connection()` block: commit or roll back, return in any case."""
    # After anything but an Exception (KeyboardInterrupt, a greenlet's timeout) a query may have
    # been cut short with its answer on the wire, whatever the status says.
    close = True
    try:
        if error is None:
            commit(pool, conn)
            close = False
        elif isinstance(error, Exception):
            close = roll_back(pool, conn) or pool._driver.is_disconnect(conn, error)
    except Exception as failure:
        close = roll_back(pool, conn) or pool._driver.is_disconnect(conn, failure)
        raise
    finally:
        pool.putconn(conn, close)


def roll_back(pool: ConnectionPool, conn: Any) -> bool:
    """Roll back what is open, within the pool's deadline. True if the connection is broken."""
    status = pool._driver.transaction_status(conn)
    if status in (INTRANS, INERROR):
        try:
            with Guard(pool._driver, conn, pool._ping_timeout):
                pool._driver.rollback(conn)
        except Exception:
            return True
        pool.proved()
        status = pool._driver.transaction_status(conn)
    return status != IDLE


def commit(pool: ConnectionPool, conn: Any) -> None:
    """Commit, never silently rolling back.

    Raises TransactionAborted if the transaction has failed; what the driver's commit raises.
    """
    status = pool._driver.transaction_status(conn)
    if status == INERROR:
        raise pool._error(TransactionAborted)(
            "the transaction has failed (a database error was caught and not rolled back), so "
            "nothing of it can be committed: it is rolled back. Let the error through, or use a "
            "savepoint around the statement that may fail"
        )
    pool._driver.commit(conn)
    if status != IDLE:
        pool.proved()
