"""An unknown option or key: what it was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from ._shown import is_word, shown

__all__ = ["ELSEWHERE", "nearest", "unknown"]

# What other pools call it. The first four are psycopg_pool's, then SQLAlchemy's and psycopg2's.
ELSEWHERE: Mapping[str, str] = {
    "connection_class": 'part of kwargs: {"connection_class": ...} with psycopg, '
    '{"connection_factory": ...} with psycopg2, {"factory": ...} with sqlite3',
    "num_workers": "not needed: connects have threads of their own, max_connecting at once",
    "max_conns": "max_size",
    "reconnect_fail": "reconnect_failed",
    "pool_size": "max_size",
    "max_overflow": "part of max_size",
    "maxconn": "max_size",
    "minconn": "min_size",
    "pool_timeout": "timeout",
    "recycle": "max_lifetime",
    "pool_recycle": "max_lifetime",
    "pre_ping": 'validate="ping"',
    "pool_pre_ping": 'validate="ping"',
    "use_lifo": "reuse",
    "pool_use_lifo": "reuse",
}


def nearest(name: object, known: Iterable[str]) -> str:
    """Return ": did you mean 'x'?" for the most similar known name, or "" if none is."""
    if not isinstance(name, str) or not is_word(name):
        return ""
    folded = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1)
    return f": did you mean {folded[close[0]]!r}?" if close else ""


def unknown(
    name: object,
    known: Iterable[str],
    elsewhere: Mapping[str, str] = ELSEWHERE,
    *,
    what: str = "pool option",
) -> str:
    """Return that it is unknown, and what there is instead: its name here, the nearest, or all.

    Arguments: `elsewhere`, what other pools' options are here, by their names in lower case.
    """
    known = list(known)
    there = elsewhere.get(name.lower()) if isinstance(name, str) else None
    hint = f": here it is {there}" if there else nearest(name, known)
    return f"unknown {what} {shown(name)}{hint or f'; the {what}s are ' + ', '.join(known)}"
