"""Which statements change the session beyond their transaction; for `reset="auto"` on PostgreSQL.

What is recognised is a statement's text, so what a function does inside is not. A false alarm
costs two round trips when the connection comes back; an oversight costs the next borrower its
search path or its tenant. So when in doubt, it does.
"""

from __future__ import annotations

import functools
import re
from typing import Any

__all__ = ["changes_session"]

# Statements that can change the session only by what the second test finds in them.
_ORDINARY = ("select", "insert", "update", "delete", "with", "savepoint", "release", "rollback to")

_SUSPICIOUS = ("set_config", "advisory_", "temp", ";", "/*", "--")

_CHANGES = re.compile(
    r"""
    # At the start of a statement, comments aside.
    (?: \A | ; ) (?: \s | /\*.*?\*/ | --[^\n]*\n )*
    (?:
        set \s+ (?! local\b | constraints\b | transaction\b )
      | reset \b | discard \b | load \b | listen \b | begin \b | start \s | do \b | do\$
      | prepare \s+ (?! transaction\b )
      | declare \b .* \b with \s+ hold \b
      | create \s+ (?: or \s+ replace \s+ )? (?: local \s+ | global \s+ )? temp (?: orary )? \b
    )
    # Anywhere. The advisory locks of a transaction (pg_advisory_xact_lock) end with it.
    | set_config \s* \(
    | pg_ (?: try_ )? advisory_lock
    | into \s+ (?: local \s+ | global \s+ )? temp (?: orary )? \b
    """,
    re.VERBOSE | re.DOTALL,
)


def changes_session(sql: Any, cursor: Any = None) -> bool:
    """Return whether a statement leaves something in the session when its transaction is over.

    Arguments: `sql`, text, bytes, or an object of the driver's that `cursor` (or its connection)
    can turn into text.
    """
    if isinstance(sql, bytes):
        sql = sql.decode("latin-1")  # any bytes will do: what is looked for is ASCII
    elif not isinstance(sql, str):
        sql = sql.as_string(cursor) if hasattr(sql, "as_string") else str(sql)
    # Projects run the same few hundred texts over and over; bulk inserts are not worth keeping.
    return _remembered(sql) if len(sql) < 4096 else _changes(sql)


def _changes(sql: str) -> bool:
    lowered = sql.lower()
    if lowered.startswith(_ORDINARY) and not any(part in lowered for part in _SUSPICIOUS):
        return False
    return _CHANGES.search(lowered) is not None


_remembered = functools.lru_cache(maxsize=512)(_changes)
