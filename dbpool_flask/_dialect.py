"""What the drivers name differently and the pool itself has no need of."""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

from dbpool.drivers.base import bare

__all__ = [
    "begin",
    "begin_for_good",
    "check_deferred",
    "close_locally",
    "end_read_only_unit",
    "execute",
    "has_written",
    "in_autocommit",
    "make_read_only",
    "make_unit_read_only",
    "restore_access",
    "set_autocommit",
]


def in_autocommit(conn: Any) -> bool:
    """Return whether a statement outside a transaction commits by itself."""
    if not isinstance(conn, sqlite3.Connection):
        return bool(getattr(conn, "autocommit", False))
    autocommit = getattr(conn, "autocommit", None)  # from Python 3.12 on; True, False or -1
    return autocommit is True or (autocommit is not False and conn.isolation_level is None)


def set_autocommit(conn: Any) -> None:
    """Have each statement commit by itself; the pool puts it back."""
    if isinstance(conn, sqlite3.Connection) and getattr(conn, "autocommit", None) is not False:
        conn._dbpool_level = conn.isolation_level  # type: ignore[attr-defined]  # for `begin`
        conn.isolation_level = None
    else:
        conn.autocommit = True


def begin(conn: Any) -> None:
    """Open a transaction where the driver will not do so with the next statement of any kind."""
    if not isinstance(conn, sqlite3.Connection):
        if in_autocommit(conn):
            execute(conn, "BEGIN")
    elif not conn.in_transaction:
        # sqlite3 opens one before INSERT, UPDATE and DELETE alone, and a savepoint without one
        # would be committed when it is released. A block that reads first and has no lock could
        # not write once another has written: it takes the lock that writes would begin with.
        level = conn.isolation_level or getattr(conn, "_dbpool_level", None) or ""
        execute(conn, f"BEGIN {level}")


def has_written(conn: Any) -> bool:
    """Return whether the transaction that is open has written, or locked, anything."""
    if isinstance(conn, sqlite3.Connection):
        return True  # as a rule one opens at the first write
    return bool(execute(conn, "SELECT txid_current_if_assigned() IS NOT NULL")[0][0])


def make_read_only(conn: Any) -> Any:
    """Have writes refused from the next transaction on; return what `restore_access` wants."""
    if isinstance(conn, sqlite3.Connection):
        execute(conn, "PRAGMA query_only = 1")
        return None
    name = _read_only_attribute(conn)
    before = getattr(conn, name)
    setattr(conn, name, True)
    # psycopg 3 says it with the BEGIN that it sends, and in autocommit mode it sends none.
    if name == "read_only" and conn.autocommit:
        execute(conn, "SET default_transaction_read_only TO on")
    return before


def restore_access(conn: Any, before: Any) -> None:
    """Undo `make_read_only`; the connection is not in a transaction."""
    if isinstance(conn, sqlite3.Connection):
        execute(conn, "PRAGMA query_only = 0")
        return
    name = _read_only_attribute(conn)
    setattr(conn, name, before)
    if name == "read_only" and conn.autocommit:
        execute(conn, "RESET default_transaction_read_only")


# -- for test isolation, where a unit of work is a savepoint

_DEFERRED = """
    SELECT string_agg(quote_ident(n.nspname) || '.' || quote_ident(c.conname), ', ')
    FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE c.condeferred
"""


def begin_for_good(conn: Any) -> None:
    """Open a transaction in which units can be savepoints, autocommit mode or not."""
    if isinstance(conn, sqlite3.Connection):
        execute(conn, "BEGIN")
    elif conn.autocommit:
        conn.autocommit = False


def check_deferred(conn: Any) -> None:
    """Raise what a COMMIT would raise because of deferred constraints."""
    if isinstance(conn, sqlite3.Connection):
        if execute(conn, "PRAGMA foreign_keys") == [(1,)] and execute(
            conn, "PRAGMA foreign_key_check"
        ):
            raise sqlite3.IntegrityError("FOREIGN KEY constraint failed")
        return
    execute(conn, "SET CONSTRAINTS ALL IMMEDIATE")
    # By name: ALL DEFERRED would defer those, too, that are checked at each statement.
    ((deferred,),) = execute(conn, _DEFERRED)
    if deferred:
        execute(conn, f"SET CONSTRAINTS {deferred} DEFERRED")


def make_unit_read_only(conn: Any) -> None:
    """Have writes refused until the savepoint that has just been set is gone."""
    if isinstance(conn, sqlite3.Connection):
        execute(conn, "PRAGMA query_only = 1")
    else:
        execute(conn, "SET TRANSACTION READ ONLY")


def end_read_only_unit(conn: Any) -> None:
    """Undo `make_unit_read_only`, where the end of the savepoint does not."""
    if isinstance(conn, sqlite3.Connection):
        execute(conn, "PRAGMA query_only = 0")


def close_locally(cursor: Any) -> None:
    """Close a cursor whose other end, on the server, has gone with its transaction."""
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(cursor, psycopg.ServerCursor):
        cursor.close()  # sends nothing; psycopg2 would


def _read_only_attribute(conn: Any) -> str:
    return "readonly" if hasattr(conn, "readonly") else "read_only"  # psycopg2, psycopg 3


def execute(conn: Any, *statements: str) -> list[Any]:
    """Run statements of our own; return the rows of the last."""
    cursor = _plain_cursor(conn)
    try:
        for statement in statements:
            cursor.execute(statement)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    finally:
        cursor.close()


def _plain_cursor(conn: Any) -> Any:
    """Return a cursor of the driver's own class: the app's may return dicts, or anything."""
    conn = bare(conn)
    if isinstance(conn, sqlite3.Connection):
        cursor = sqlite3.Cursor(conn)
        cursor.row_factory = None
        return cursor
    psycopg2, psycopg = sys.modules.get("psycopg2.extensions"), sys.modules.get("psycopg")
    if psycopg2 is not None and isinstance(conn, psycopg2.connection):
        # Through the connection, which sees to it that a BEGIN is sent where one is needed.
        return conn.cursor(cursor_factory=psycopg2.cursor)
    if psycopg is not None and isinstance(conn, psycopg.Connection):
        return psycopg.Cursor(conn, row_factory=psycopg.rows.tuple_row)
    return conn.cursor()
