"""What a statement leaves in its session beyond its transaction; for `reset="auto"` on PostgreSQL.

What is recognised is a statement's text, so what a function does inside is not. A false alarm
costs two round trips when the connection comes back; an oversight costs the next borrower its
search path or its tenant. So in doubt, a statement counts as a change.

This runs at each statement, and tracers give each statement a comment of its own, so that its
verdict cannot be remembered. Hence no loop in Python over a text. A few searches for words decide
about most statements. The others are taken apart by one regular expression whose alternatives
each begin with a character of their own, which lets `re` skip to the next of those.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from ._bare import bare

__all__ = ["CHANGED", "NOTHING", "REMEMBERED", "SPOILT", "leaves", "remembered"]

# What is left: nothing; what DISCARD ALL undoes; what only the end of the session undoes.
NOTHING, CHANGED, SPOILT = range(3)

REMEMBERED = 4096  # characters of the longest text that is worth remembering

# Statements that change the session only by one of the words that `_may_change` looks for.
_ORDINARY = (
    *("select", "insert", "update", "delete", "with", "merge", "values"),
    *("savepoint", "release", "rollback to"),
)

# What a statement begins with that changes the session. The words are one space apart.
_FIRST_WORDS = r"""\ ?(?:
    set\b \ ? (?! \ | local\b | constraints\b | transaction\b )
  | (?: reset | discard | listen | unlisten | begin | start | do | call | deallocate ) \b
  | prepare\b \ ? (?! \ | transaction\b )
  | declare\b [^;]* \b with \ hold \b
)"""
_FIRST = re.compile(_FIRST_WORDS, re.VERBOSE)
_NEXT = re.compile(";" + _FIRST_WORDS, re.VERBOSE)
_LOAD = re.compile(r"(?:\A|;) ?load\b")  # no session gets rid of a library
_SETTINGS = re.compile(r"\bupdate (?:only )?(?:pg_catalog ?\. ?)?pg_settings\b")

# The four letters come first, so that `re` searches for a fixed text. EXPLAIN ANALYZE executes
# what it explains, so these count anywhere.
_TEMPORARY = re.compile(
    r"""temp (?: (?<= pg_temp )
               | (?: (?<= into\ temp ) | (?<= create\ temp ) | (?<= replace\ temp )
                   | (?<= local\ temp ) | (?<= global\ temp ) ) (?: orary )? (?! [\w$] ) )""",
    re.VERBOSE,
)
# The same where spaces and comments are still there: what may stand before the word then.
_TEMP = re.compile(
    r"""temp (?: (?<= pg_temp )
               | (?: (?<= into[\ \t]temp ) | (?<= create[\ \t]temp ) | (?<= replace[\ \t]temp )
                   | (?<= local[\ \t]temp ) | (?<= global[\ \t]temp )
                   | (?<= [\s/]\stemp ) | (?<= [\n\r\f\v/]temp ) ) (?: orary )? (?! [\w$] ) )""",
    re.VERBOSE,
)

# Words that count in a string, too: there are functions that execute one. The advisory locks of a
# transaction (pg_advisory_xact_lock) end with it.
_SPOILS = ("dblink_connect", "setseed", "pg_replication_origin_session_setup")
_LOCKS = re.compile("pg_(?:try_)?advisory_lock")

# A literal `true` as the third argument: the setting ends with its transaction. The two before it
# are of a form that cannot be read in another way, whatever the server makes of backslashes.
_STRING = r"[^'\\]*(?:(?:''|\\[^'])[^'\\]*)*'"  # from behind its first quote on
_ARGUMENT = rf"\s*(?:'{_STRING}|%s|%\(\w+\)s|\$\d+|[\w.]+)\s*(?:::\s*\w+\s*)?"
_LOCAL = re.compile(rf'set_config"?\s*\({_ARGUMENT},{_ARGUMENT},\s*true\s*\)', re.ASCII)

_COMMENT = r"/\*[^*/]*(?:(?:\*(?!/)|/(?!\*))[^*/]*)*\*/"  # one that has no other in it
_COMMENTS = re.compile(rf"(?:\s+|--[^\n\r]*|{_COMMENT})*")

# Comments and strings, to take out; and what stands in double quotes (the second group), to keep.
# A prefix, or the tag of a dollar quote, is none where it is the end of a name. A string with a
# backslash before its end is not recognised, since the server may be set to read on: what is not
# recognised stays, and makes a doubt.
_IN_A_NAME = r"[\w$\x80-\U0010ffff]"
_NOISE = re.compile(
    rf"""
      --[^\n\r]*
    | {_COMMENT}
    | '(?: (?<=[eE]') (?<!{_IN_A_NAME}[eE]') [^'\\]*(?:(?:''|\\.)[^'\\]*)*' | {_STRING} )
    | \$ (?<!{_IN_A_NAME}\$) ((?:[^\W\d]\w*)?) \$ .*? \$\1\$
    | "([^"]*)"
    """,
    re.VERBOSE | re.DOTALL,
)

# Letters small, and without the characters that lists of columns and placeholders consist of: what
# is left of an INSERT with a thousand placeholders is short. `s` is one of them.
_SMALL = bytes(range(256)).lower()
_IN_LISTS = b"sS %(),.\"'0123456789"


def leaves(sql: Any, cursor: Any = None) -> int:
    """Return what a statement leaves in the session: NOTHING, CHANGED or SPOILT.

    Arguments: `sql`, text, bytes, or an object of the driver's that `cursor` (or its connection)
    can turn into text.
    """
    if isinstance(sql, bytes):
        sql = sql.decode("latin-1")  # any bytes will do: what is looked for is ASCII
    elif not isinstance(sql, str):
        if not hasattr(sql, "as_string"):
            return CHANGED  # a kind that is not known here, if it is any
        sql = sql.as_string(bare(cursor))
    # Projects run the same few hundred texts over and over; bulk inserts are not worth keeping.
    return remembered(sql) if len(sql) < REMEMBERED else _judge(sql)


def _judge(sql: str) -> int:
    if _is_ordinary(sql) and not _may_change(sql):
        return NOTHING
    lowered = sql.lower()
    if any(word in lowered for word in _SPOILS):
        return SPOILT
    if (
        "set_config" in lowered and lowered.count("set_config") != len(_LOCAL.findall(lowered))
    ) or ("advisory_" in lowered and _LOCKS.search(lowered)):
        return CHANGED
    plain = _plain(sql)
    if "load" in plain and _LOAD.search(plain):
        return SPOILT
    if (
        _FIRST.match(plain)
        or (";" in plain and _NEXT.search(plain))
        or ("temp" in plain and _TEMPORARY.search(plain))
        or ("pg_settings" in plain and _SETTINGS.search(plain))
        or "set_limit" in plain  # pg_trgm's
        # It does not come apart as SQL should, or spells a word out.
        or "'" in plain
        or '"' in plain
        or "/*" in plain
        or "u&" in plain
    ):
        return CHANGED
    return NOTHING


# The verdict on a text, without a Python frame where it was judged before.
remembered = functools.lru_cache(maxsize=512)(_judge)


def _is_ordinary(sql: str) -> bool:
    """Return whether the first word, behind comments, is that of an ordinary statement."""
    if sql[:11].lower().startswith(_ORDINARY):
        return True
    begin = _behind_comments(sql, 0)
    return sql[begin : begin + 11].lower().startswith(_ORDINARY)


def _may_change(sql: str) -> bool:
    """Return whether an ordinary statement has to be looked at more closely.

    A comment in it hides nothing: it stands between two words, of which one is looked for here.
    """
    words = sql.encode("utf-8", "replace").translate(_SMALL, _IN_LISTS).decode("latin-1")
    return (
        "et_config" in words
        or "advi" in words
        or "pg_" in words
        or "et_limit" in words
        or "eteed" in words
        or "dblink_" in words
        or "u&" in words  # a word spelt out
        or ("temp" in words and _TEMP.search(sql.lower()) is not None)
        # Another statement behind it, unless this is the only one and nothing comes after it. It
        # may stand in a string: then there is none.
        or (";" in words and not _ends_at_its_only_semicolon(sql))
        or ("/*" in words and words.rfind("/*") > words.rfind("*/"))
    )


def _ends_at_its_only_semicolon(sql: str) -> bool:
    begin = sql.find(";") + 1
    return sql.find(";", begin) < 0 and _behind_comments(sql, begin) == len(sql)


def _behind_comments(sql: str, begin: int) -> int:
    """Return where the comments and spaces end that begin there."""
    found = _COMMENTS.match(sql, begin)
    assert found is not None  # which may be none
    return found.end()


def _plain(sql: str) -> str:
    """Return a text in lower case, one space between words, without its comments and strings."""
    parts = _NOISE.split(sql)
    del parts[1::3]  # the tags
    return " ".join(" ".join(filter(None, parts)).lower().split())
