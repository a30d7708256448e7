"""A primary and its streaming standby, on one machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

from testproject._postgres_address import as_dsn
from testproject.postgres import PostgresServer

__all__ = ["both", "make_pair", "promote", "wait_caught_up"]

_SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "5",
    "hot_standby": "on",
    "wal_keep_size": "64MB",
}


def make_pair(conf: Mapping[str, object]) -> tuple[PostgresServer, PostgresServer]:
    """Return a primary and a standby that streams from it, both started; destroy both."""
    settings = {**conf, **_SETTINGS}
    primary = PostgresServer(conf=settings)
    try:
        primary.start()
        source = primary.dsn(application_name="standby")
        standby = PostgresServer(conf={**settings, "primary_conninfo": source})
        try:
            standby.follow(primary)
            return primary, standby.start()
        except BaseException:
            standby.destroy()
            raise
    except BaseException:
        primary.destroy()
        raise


def promote(standby: PostgresServer) -> None:
    """Make the standby a primary; return when it takes writes."""
    standby.sql("SELECT pg_promote(true, 30)")


def wait_caught_up(primary: PostgresServer, timeout: float = 10.0) -> None:
    """Return when the standby has replayed everything that is written now."""
    # insert, not pg_current_wal_lsn: a commit may not be written yet.
    target = primary.sql("SELECT pg_current_wal_insert_lsn()")
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        query = f"SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{target}'"
        if primary.sql(query) != "0":
            return
        time.sleep(0.01)
    raise TimeoutError(f"the standby has not caught up within {timeout:g} s")


def both(first: PostgresServer, second: PostgresServer, **overrides: object) -> str:
    """Return a libpq string with two hosts that leads to whichever of them takes writes."""
    two = {"host": "127.0.0.1,127.0.0.1", "port": f"{first.port},{second.port}"}
    attributes = {"target_session_attrs": "read-write"}
    return as_dsn(first.parameters(**two, **attributes, **overrides))
