"""SQLite through Python's own sqlite3 module: files, and databases in memory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from ..drivers import _sqlite
from ._sqlite import end_cursors, tracking
from .base import CLOSED, CLOSED_IN_TRANSACTION, IDLE, INTRANS, LOST, UNKNOWN, Driver, bare

__all__ = ["Sqlite3Driver", "end_cursors", "tracking"]

BUSY_TIMEOUT = 5.0  # seconds to wait for another connection's lock


class Sqlite3Driver(Driver):
    """The driver over sqlite3.

    One object for one pool: it keeps the database of `sqlite://`, which lives as long as the pool
    (in a forked child an empty one of its own), and the directory that relative paths start from.
    `kwargs` are those of `sqlite3.connect`, and `journal_mode`: "wal" unless given, None leaves
    the file as it is.
    """

    name = "sqlite3"
    OperationalError: type[Exception] = sqlite3.OperationalError

    def __init__(self) -> None:
        self._memory = _sqlite.Memory()
        try:
            self._directory = os.getcwd()
        except OSError:  # it is gone; absolute paths serve
            self._directory = ""

    def check_conninfo(self, conninfo: str) -> None:
        """Raise ValueError, quoting nothing of it, if `conninfo` is malformed."""
        _sqlite.parse(conninfo)

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError for what a connection of a pool cannot be."""
        _sqlite.check_kwargs(kwargs)

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection; nothing here waits for a server."""
        self.check_kwargs(kwargs)
        path, query = _sqlite.parse(conninfo)
        given = {"timeout": BUSY_TIMEOUT, **kwargs}
        journal_mode = given.pop("journal_mode", "wal")
        if not hasattr(sqlite3.Connection, "autocommit") and given.pop("autocommit", None) is True:
            given["isolation_level"] = None  # what it is called before Python 3.12
        if path:
            path = os.path.join(os.fsencode(self._directory), path)
            uri = _sqlite.file_uri(path, query)
        else:
            uri, journal_mode = self._memory.uri(), None
        given["factory"] = _sqlite.tracking(given.get("factory", sqlite3.Connection))
        # The pool is the guard: a connection is in one thread's hands at a time.
        given.update(uri=True, check_same_thread=False)
        conn = sqlite3.connect(uri, **given)
        conn._dbpool_opened = (uri, given, journal_mode, path)
        try:
            _sqlite.set_journal_mode(conn, journal_mode)
        except BaseException:
            self.close(conn)
            raise
        return conn

    def canceller(self, conn: Any) -> Callable[[], None]:
        """Return what ends its statement: SQLite's own interrupt, for which nobody waits."""

        def ask() -> None:
            try:
                conn.interrupt()
            except sqlite3.ProgrammingError:  # closed meanwhile
                pass

        return ask

    def pool_closed(self) -> None:
        """Let go of the database in memory; it ends with its last connection."""
        self._memory.close()

    def close(self, conn: Any) -> None:
        """Close it; harmless on one that is closed.

        A query of another thread is interrupted, and the connection closes with its end: Python
        3.10 crashes if it is closed beneath it.
        """
        try:
            conn.interrupt()
            if _sqlite.end_cursors(conn):
                conn.close()
        except sqlite3.Error:
            pass

    def fileno(self, conn: Any) -> int | None:
        """Return None: there is no socket, and nothing that the other side could close."""
        return None

    @staticmethod
    def transaction_status(conn: Any) -> int:
        """Return IDLE, INTRANS or UNKNOWN (closed)."""
        try:
            return INTRANS if conn.in_transaction else IDLE
        except sqlite3.ProgrammingError:
            return UNKNOWN

    def how_closed(self, conn: Any) -> str:
        """Return CLOSED, CLOSED_IN_TRANSACTION, or LOST: also where that cannot be told apart."""
        was_open = getattr(conn, "_dbpool_closed_in_transaction", None)
        if was_open is None:
            return LOST
        return CLOSED_IN_TRANSACTION if was_open else CLOSED

    def attributes(self, conn: Any) -> Any:
        """Return the session attributes that a borrower may change."""
        return (
            conn.isolation_level,
            conn.row_factory,
            conn.text_factory,
            getattr(conn, "autocommit", None),  # from Python 3.12 on
        )

    @staticmethod
    def settled(conn: Any, attributes: Any) -> bool:
        """Return whether it is idle and its attributes are those; ends the borrower's cursors.

        One whose rows were not read to the end would go on reading: in its next borrower's hands
        the connection would see the data of then, and could not write.
        """
        try:
            return (
                (not conn._dbpool_cursors or _sqlite.end_cursors(conn))
                and not conn.in_transaction
                and conn.isolation_level == attributes[0]
                and conn.row_factory is attributes[1]
                and conn.text_factory is attributes[2]
                and (attributes[3] is None or conn.autocommit == attributes[3])
            )
        except sqlite3.ProgrammingError:  # it is closed
            return False

    def restore(self, conn: Any, attributes: Any) -> None:
        """Put the session attributes back; the connection is not in a transaction."""
        isolation_level, row_factory, text_factory, autocommit = attributes
        if conn.isolation_level != isolation_level:
            conn.isolation_level = isolation_level
        conn.row_factory = row_factory
        conn.text_factory = text_factory
        if autocommit is not None and conn.autocommit != autocommit:
            conn.autocommit = autocommit

    def commit(self, conn: Any) -> None:
        """Commit what is open, a raw BEGIN included."""
        if _needs_sql(conn):
            _execute(conn, "COMMIT")
        else:
            conn.commit()

    def rollback(self, conn: Any) -> None:
        """Roll back what is open, a raw BEGIN included."""
        if _needs_sql(conn):
            _execute(conn, "ROLLBACK")
            return
        conn.rollback()
        if getattr(conn, "autocommit", None) is False:  # which has begun the next one at once
            conn.autocommit = True

    def discard_session(self, conn: Any) -> None:
        """Forget all session state: PRAGMAs, temporary tables, functions, attached files ...

        SQLite has no command for it, and some of it cannot be undone one by one, so the
        connection opens its database anew.
        """
        opened = uri, given, journal_mode, _ = conn._dbpool_opened
        replaced = vars(conn).get("close")
        _sqlite.end_cursors(conn)
        conn.close()
        bare(conn).__init__(uri, **given)  # which forgets all attributes
        conn._dbpool_opened = opened
        self.replace_close(conn, replaced)
        _sqlite.set_journal_mode(conn, journal_mode)

    def ping(self, conn: Any) -> None:
        """Run a statement; not one that could wait for a lock, which nobody could cut short."""
        _execute(conn, "SELECT 1")

    def probe(self, conn: Any) -> bool:
        """Read the file's header; return whether it can be written."""
        _execute(conn, "PRAGMA schema_version")
        uri, _, _, path = conn._dbpool_opened
        return not path or ("mode=ro" not in uri and os.access(path, os.W_OK))

    def reason(self, error: BaseException) -> str:
        """Return a word of REASONS for an error of `connect`."""
        text = str(error)
        missing = "unable to open database file" in text or "is not a database" in text
        return "unknown_database" if missing else "connect_failed"

    def is_disconnect(self, conn: Any, error: BaseException) -> bool:
        """Return whether the connection is closed, or its file is gone or cannot be read."""
        try:
            conn.in_transaction  # noqa: B018
        except sqlite3.ProgrammingError:
            return True
        code = getattr(error, "sqlite_errorname", "")  # from Python 3.11 on
        return code.startswith("SQLITE_IOERR") or code in (
            "SQLITE_CANTOPEN",
            "SQLITE_READONLY_DBMOVED",
        )


def _needs_sql(conn: Any) -> bool:
    """Return whether sqlite3's own commit() and rollback() would do nothing."""
    return conn.in_transaction and getattr(conn, "autocommit", None) is True


def _execute(conn: Any, sql: str) -> None:
    # Past the connection's own methods and cursor class, which may do anything.
    cursor = sqlite3.Cursor(bare(conn))
    cursor.execute(sql).fetchall()
    cursor.close()
