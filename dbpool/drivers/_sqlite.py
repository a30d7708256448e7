"""What the sqlite3 driver needs: its URLs, databases in memory, connections that can be lent."""

from __future__ import annotations

import functools
import os
import secrets
import sqlite3
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from .._shown import shown
from .._unknown import nearest
from ._bare import bare

__all__ = [
    "MALFORMED",
    "Memory",
    "check_kwargs",
    "end_cursors",
    "file_uri",
    "parse",
    "set_journal_mode",
    "tracking",
]

MALFORMED = (
    "the conninfo is not a valid SQLite URL (it is not shown here): write sqlite:///relative.db, "
    "sqlite:////absolute.db, or sqlite:// for one database in memory; in the path, % ? and # as "
    "%25 %3F and %23; after it at most SQLite's own parameters, such as ?mode=ro"
)

_PARAMETERS = frozenset(("cache", "immutable", "mode", "modeof", "nolock", "psow", "vfs"))
_MODES = ("ro", "rw", "rwc")
# Of sqlite3.connect that are not the pool's, and one of ours.
_ARGUMENTS = (
    *("autocommit", "cached_statements", "check_same_thread", "detect_types", "factory"),
    *("isolation_level", "journal_mode", "timeout"),
)
_JOURNAL_MODES = (None, "wal", "delete", "truncate", "persist", "memory", "off")


def parse(conninfo: str) -> tuple[bytes, str]:
    """Return the path, empty for a database in memory, and the query. Raises ValueError."""
    scheme, separator, rest = conninfo.strip().partition("://")
    location, _, query = rest.partition("?")
    host, slash, quoted = location.partition("/")
    path = unquote_to_bytes(quoted) if quoted.isascii() else unquote_to_bytes(quoted.encode())
    good = (
        scheme.lower() == "sqlite"
        and bool(separator)
        and not host
        and "#" not in rest
        and b"\0" not in path
        and all(_is_hex(part[:2]) for part in quoted.split("%")[1:])
        and bool(path) == bool(slash)  # sqlite:/// with nothing behind it is a path that got lost
        and _are_parameters(query)
    )
    if path == b":memory:":
        path = b""
    if not good or (query and not path):
        raise ValueError(MALFORMED)
    return path, query


def _is_hex(text: str) -> bool:
    return len(text) == 2 and all(c in "0123456789abcdefABCDEF" for c in text)


def _are_parameters(query: str) -> bool:
    # SQLite takes no notice of one that it does not know, nor of one without a value.
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        return False
    # In a private database in memory each connection would see one of its own: use sqlite://.
    return given.keys() <= _PARAMETERS and given.get("mode", "rw") in _MODES


def file_uri(path: bytes, query: str) -> str:
    """Return a file's name as SQLite reads it."""
    if os.name == "nt":
        path = b"/" + path.replace(b"\\", b"/")
    authority = "//" if path.startswith(b"/") else ""
    return f"file:{authority}{quote(path)}" + (f"?{query}" if query else "")


def check_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for what a connection of a pool cannot be."""
    for option in ("database", "uri"):
        if option in kwargs:
            raise TypeError(f"{option!r} in kwargs is not possible: the URL names the database")
    factory = kwargs.get("factory", sqlite3.Connection)
    if not (isinstance(factory, type) and issubclass(factory, sqlite3.Connection)):
        raise TypeError(
            f"factory={shown(factory)} is not possible: it takes a class made from "
            "sqlite3.Connection"
        )
    if factory.__init__ is sqlite3.Connection.__init__:  # else it may have arguments of its own
        for option in kwargs:
            if option not in _ARGUMENTS:
                raise TypeError(
                    f"sqlite3 has no option {shown(option)}, which is in kwargs"
                    f"{nearest(option, _ARGUMENTS)}"
                )
    if kwargs.get("autocommit") is False:
        raise ValueError(
            "autocommit=False is not possible: sqlite3 then has a transaction open at all times, "
            "and nobody can tell whether there is anything in it. Leave it out (a transaction "
            "begins with the first write, and pool.connection() commits it), or set it to True"
        )
    mode = kwargs.get("journal_mode")
    if mode not in _JOURNAL_MODES:
        raise ValueError(
            f"journal_mode={shown(mode)} is not possible: it takes "
            + ", ".join(map(repr, _JOURNAL_MODES))
        )


def set_journal_mode(conn: sqlite3.Connection, mode: str | None) -> None:
    """Have the file in this mode, "wal" for readers beside a writer; None leaves it as it is.

    Reads the file in any case: one that is no database is told here, not to a borrower.
    """
    cursor = sqlite3.Cursor(bare(conn))
    cursor.execute("PRAGMA schema_version").fetchall()
    if mode is None or cursor.execute("PRAGMA journal_mode").fetchall()[0][0] == mode:
        return  # the change needs the file for itself, so it is not asked for in vain
    try:
        cursor.execute(f"PRAGMA journal_mode={mode}").fetchall()
    except sqlite3.OperationalError:
        # Read-only, or in use just now: SQLite does not wait here. Slower, and as correct; the
        # next connection tries again.
        pass


class Memory:
    """One database in memory for all connections of a pool; a connection of its own keeps it.

    Not shared-cache mode, where there is no waiting for a lock: whoever comes upon one fails at
    once. SQLite's memdb locks as a file does (from 3.36 on; before, shared-cache is what there is).
    """

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)
        # By process, since none may touch another's. A plain dict: single operations are atomic,
        # and a fork can come between any two.
        self._anchors: dict[int, sqlite3.Connection] = {}
        self._closed = False

    def uri(self) -> str:
        """Return the database's name, and keep it from now on."""
        pid = os.getpid()
        name = f"dbpool-{self._token}-{pid}"
        if sqlite3.sqlite_version_info >= (3, 36):
            uri = f"file:/{name}?vfs=memdb"
        else:
            uri = f"file:{name}?mode=memory&cache=shared"
        if pid not in self._anchors:
            self._park()
            anchor = sqlite3.connect(uri, uri=True, check_same_thread=False)
            kept = self._anchors.setdefault(pid, anchor)
            if kept is not anchor:
                anchor.close()
        if self._closed:  # a connect that was under way then
            self.close()
        return uri

    def close(self) -> None:
        """Let go of it; it ends with its last connection."""
        self._closed = True
        self._park()
        anchor = self._anchors.pop(os.getpid(), None)
        if anchor is not None:
            anchor.close()

    def __del__(self) -> None:
        self.close()

    def _park(self) -> None:
        """Keep a parent's, untouched: its locks may be held by threads that do not exist here."""
        for pid in [*self._anchors]:
            if pid != os.getpid():
                _parked.append(self._anchors.pop(pid))


_parked: list[sqlite3.Connection] = []


class _Tracking:
    """Goes before a class of sqlite3 connections: it can be referred to weakly, knows its cursors.

    It overrides every method that makes one: `execute` need not go through `cursor`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__.setdefault("_dbpool_cursors", [])

    def __del__(self) -> None:
        # Closed as always, but without sqlite3's warning: of one that is lost the pool tells.
        try:
            sqlite3.Connection.close(self)  # type: ignore[arg-type]
        except sqlite3.ProgrammingError:  # it was never opened
            pass

    def close(self) -> None:
        try:
            self._dbpool_closed_in_transaction = self.in_transaction  # type: ignore[attr-defined]
        except sqlite3.ProgrammingError:  # it is closed
            pass
        super().close()  # type: ignore[misc]

    def _dbpool_track(self, cursor: Any) -> Any:
        # It may come before __init__ has ended, and that forgets whatever there was.
        known = self.__dict__.setdefault("_dbpool_cursors", [])
        if len(known) >= 100:
            known[:] = [ref for ref in known if ref() is not None]
        known.append(weakref.ref(cursor))
        return cursor

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return self._dbpool_track(super().cursor(*args, **kwargs))  # type: ignore[misc]

    def execute(self, *args: Any) -> Any:
        return self._dbpool_track(super().execute(*args))  # type: ignore[misc]

    def executemany(self, *args: Any) -> Any:
        return self._dbpool_track(super().executemany(*args))  # type: ignore[misc]

    def executescript(self, *args: Any) -> Any:
        return self._dbpool_track(super().executescript(*args))  # type: ignore[misc]

    if hasattr(sqlite3.Connection, "blobopen"):  # from Python 3.11 on

        def blobopen(self, *args: Any, **kwargs: Any) -> Any:
            return self._dbpool_track(super().blobopen(*args, **kwargs))  # type: ignore[misc]


@functools.lru_cache(maxsize=64)
def tracking(factory: type[Any]) -> type[Any]:
    """Return the class for a pool's connections, made from the user's."""
    return type(
        factory.__name__,
        (_Tracking, factory),
        {"__module__": factory.__module__, "__doc__": factory.__doc__},
    )


def end_cursors(conn: Any) -> bool:
    """Close the cursors that a borrower still has. False if another thread is at work in one.

    And its blobs: an open one keeps the file locked, and what it wrote from being committed.
    """
    known = getattr(conn, "_dbpool_cursors", [])  # none if its __init__ was interrupted
    while known:
        cursor = known[-1]()
        if cursor is not None:
            try:
                if isinstance(cursor, sqlite3.Cursor):
                    sqlite3.Cursor.close(cursor)
                else:
                    cursor.close()
            except sqlite3.ProgrammingError:
                return False
        known.pop()
    return True
