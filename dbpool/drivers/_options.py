"""The options of a libpq conninfo: which names it takes, and which mistakes have a known cause.

libpq itself says which it knows, by parsing; the list here is for hints only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from .._shown import is_word, shown
from .._unknown import nearest

__all__ = ["hint", "not_whole", "unknown_in"]

# Whole numbers, which libpq reads only when it has found a server.
_WHOLE = (
    "connect_timeout",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "tcp_user_timeout",
)
_NAMES = (
    *("application_name", "channel_binding", "client_encoding", "dbname", "gssencmode", "host"),
    *("fallback_application_name", "hostaddr", "load_balance_hosts", "options", "passfile"),
    *("password", "port", "require_auth", "requirepeer", "service", "ssl_max_protocol_version"),
    *("ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcrl", "sslkey", "sslmode"),
    *("sslnegotiation", "sslpassword", "sslrootcert", "target_session_attrs", "user", *_WHOLE),
)
# What other programs' URLs have.
_STRANGERS = {
    "pgbouncer": "it is Prisma's, and not needed here",
    "connection_limit": "it is Prisma's: here it is max_size",
    "pool_timeout": "it is Prisma's: here it is timeout",
    "schema": "it is Prisma's: write options=-csearch_path%3DNAME",
    "search_path": "write options=-csearch_path%3DNAME",
    "currentschema": "it is JDBC's: write options=-csearch_path%3DNAME",
    "sslaccept": "it is Prisma's: sslmode says how strict TLS is",
    "statement_timeout": "it is an option of the pool",
    "row_factory": "it is psycopg 3's",
    "prepare_threshold": "it is psycopg 3's",
    "connection_class": "it is for psycopg 3",
    "connection_factory": "it is psycopg2's",
}

_WHOLE_NUMBER = re.compile(r"\s*[-+]?[0-9]{1,10}\s*")
_PAIR = re.compile(r"\s*([^\s=]+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s\\']|\\.)*)(?=\s|$)")


def hint(name: str) -> str:
    """Return what an unknown option may have been meant to be: a clause that begins with ":"."""
    told = _STRANGERS.get(name.lower())
    return f": {told}" if told else nearest(name, _NAMES)


def not_whole(given: Mapping[str, Any]) -> str:
    """Return which option should be a whole number and is none, "" if there is no such one."""
    for name in _WHOLE:
        value = given.get(name)
        if value not in (None, "") and not _WHOLE_NUMBER.fullmatch(str(value)):
            return name
    return ""


def unknown_in(conninfo: str, knows: Callable[[str], bool]) -> str:
    """Return how an error names the option that a malformed conninfo has and libpq has not, or "".

    A piece of a password is never named: what follows one that is not written as it should be.
    """
    for name in _of_url(conninfo) if "://" in conninfo else _of_pairs(conninfo):
        if not is_word(name):
            return ""
        if not knows(name):
            return f"{shown(name)}{hint(name)}"
    return ""


def _of_url(conninfo: str) -> Iterator[str]:
    query = conninfo.partition("?")[2]
    if "@" not in query:  # else it is a password that has the question mark
        for part in query.split("&"):
            name, equals, _ = part.partition("=")
            if not equals:
                return
            yield unquote(name) if name != "ssl" else "sslmode"  # which is JDBC's, and understood


def _of_pairs(conninfo: str) -> Iterator[str]:
    at = 0
    while at < len(conninfo):
        pair = _PAIR.match(conninfo, at)
        if pair is None:
            return
        yield pair.group(1)
        if "password" in pair.group(1):
            return
        at = pair.end()
