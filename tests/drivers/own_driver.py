"""A driver as a user may write one: the protocol's methods and nothing besides."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from dbpool.drivers.base import IDLE, INTRANS, UNKNOWN

__all__ = ["OwnDriver"]


class Session(sqlite3.Connection):
    """It can be referred to weakly, as all that a pool lends."""


class OwnDriver:
    """Reads its conninfo as the name of a file."""

    name = "own"
    OperationalError: type[Exception] = sqlite3.OperationalError

    def check_conninfo(self, conninfo: str) -> None:
        pass

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Session:
        return sqlite3.connect(conninfo, factory=Session, check_same_thread=False, **kwargs)

    def close(self, conn: Session) -> None:
        conn.close()

    def fileno(self, conn: Session) -> int | None:
        return None

    def transaction_status(self, conn: Session) -> int:
        try:
            return INTRANS if conn.in_transaction else IDLE
        except sqlite3.ProgrammingError:
            return UNKNOWN

    def attributes(self, conn: Session) -> Any:
        return (conn.isolation_level, conn.row_factory)

    def settled(self, conn: Session, attributes: Any) -> bool:
        return self.transaction_status(conn) == IDLE and self.attributes(conn) == attributes

    def restore(self, conn: Session, attributes: Any) -> None:
        conn.isolation_level, conn.row_factory = attributes

    def commit(self, conn: Session) -> None:
        conn.commit()

    def rollback(self, conn: Session) -> None:
        conn.rollback()

    def discard_session(self, conn: Session) -> None:
        for (name,) in conn.execute("SELECT name FROM sqlite_temp_master").fetchall():
            conn.execute(f'DROP TABLE temp."{name}"')

    def ping(self, conn: Session) -> None:
        conn.execute("SELECT 1").fetchall()

    def probe(self, conn: Session) -> bool:
        self.ping(conn)
        return True

    def reason(self, error: BaseException) -> str:
        return "unknown_database" if "unable to open" in str(error) else "connect_failed"

    def is_disconnect(self, conn: Session, error: BaseException) -> bool:
        return self.transaction_status(conn) == UNKNOWN
