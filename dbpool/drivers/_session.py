"""Which statements change the session beyond their transaction; for `reset="auto"` on PostgreSQL.

What is recognised is a statement's text, so what a function does inside is not. A false alarm
costs two round trips when the connection comes back; an oversight costs the next borrower its
search path or its tenant. So when in doubt, it does.
"""

from __future__ import annotations

import functools
import re
from typing import Any

__all__ = ["REMEMBERED", "changes_session", "remembered"]

REMEMBERED = 4096  # characters of the longest text that is worth remembering

# Statements that can change the session only by one of the words of the second list.
_ORDINARY = ("select", "insert", "update", "delete", "with", "savepoint", "release", "rollback to")

_SUSPICIOUS = (
    *("set_config", "advisory_", "pg_settings", "set_limit", "temp"),
    *(";", "/*", "--", "u&"),  # another statement behind it, or a word cut in two or spelt out
)

_CHANGES = re.compile(
    r"""
    # At the start of a statement.
    (?: \A | ; ) \s*
    (?:
        set \s (?! local\b | constraints\b | transaction\b )
      | (?: reset | discard | load | listen | unlisten | begin | start | do | deallocate ) \b
      | prepare \s (?! transaction\b )
      | declare \b [^;]* \b with \s hold \b
    )
    # Anywhere: EXPLAIN ANALYZE executes what it explains.
    | \b create \s (?: or \s replace \s )? (?: local \s | global \s )? temp (?: orary )? \b
    | \b into \s (?: local \s | global \s )? temp (?: orary )? \b
    | \b pg_temp
    | \b update \s (?: only \s )? (?: "? pg_catalog "? \s? \. \s? )? "? pg_settings \b
    | \b set_limit \b  # pg_trgm's
    """,
    re.VERBOSE,
)

# Also where it stands in a string: there are functions that execute one. The advisory locks of a
# transaction (pg_advisory_xact_lock) end with it.
_CHANGES_ANYWHERE = re.compile(r"set_config | pg_ (?: try_ )? advisory_lock", re.VERBOSE)

_TOKEN = re.compile(
    r"""
      (?P<space> \s+ | --[^\n\r]* )
    | (?P<comment> /\* )
    | (?P<string>
          [eE]'[^'\\]* (?: (?: \\. | '' ) [^'\\]* )* '
        | '[^']* (?: '' [^']* )* '
        | \$ (?P<tag> (?: [^\W\d]\w* )? ) \$ .*? \$ (?P=tag) \$
      )
    | (?P<spelt> [uU]&" )
    | (?P<text> "[^"]* (?: "" [^"]* )* " | \w[\w$]* | ; )
    | (?P<open> ['"] )
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


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
    return remembered(sql) if len(sql) < REMEMBERED else _changes(sql)


def _changes(sql: str) -> bool:
    lowered = sql.lower()
    if lowered.startswith(_ORDINARY) and not any(part in lowered for part in _SUSPICIOUS):
        return False
    if _CHANGES_ANYWHERE.search(lowered):
        return True
    plain = _plain(sql)  # the tags of dollar quotes are told apart by case
    return plain is None or _CHANGES.search(plain) is not None


# The verdict on a text, without a Python frame where it was judged before.
remembered = functools.lru_cache(maxsize=512)(_changes)


def _plain(sql: str) -> str | None:
    """Return a text in lower case without its comments and the contents of its strings.

    One space is between any two words. None if the text does not come apart as SQL should.
    """
    found = []
    place = 0
    while place < len(sql):
        token = _TOKEN.match(sql, place)
        assert token is not None  # its last alternative takes any character
        kind, place = token.lastgroup, token.end()
        if kind == "comment":
            end = _end_of_comment(sql, place)
            if end is None:
                return None
            place = end
        elif kind in ("string", "tag"):
            # With standard_conforming_strings off, a backslash would have kept it open.
            if token[0].endswith("\\'") and token[0][0] not in "eE":
                return None
            found.append("''")
        elif kind in ("open", "spelt"):
            return None
        elif kind != "space":
            found.append(token[0].lower())
    return " ".join(found)


def _end_of_comment(sql: str, place: int) -> int | None:
    """Return where the comment ends that has begun before `place`; PostgreSQL's are nested."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(sql, place):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return None
