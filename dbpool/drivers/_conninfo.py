"""Whether a conninfo and kwargs can be what they are taken for, told without a word of them.

libpq and the server would quote a part of an address that is none. It may be part of a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from .._shown import is_word
from ..drivers import _options

__all__ = ["MALFORMED", "check_address", "check_kwargs", "check_text", "not_possible"]

MALFORMED = (
    "the conninfo is not a valid PostgreSQL URL or libpq string (it is not shown here, since it "
    "may hold a password): write postgresql://user:password@host:port/dbname with %-encoded "
    "special characters, or host=... dbname=... user=..."
)

_OF_ADDRESS = ("user", "password", "host", "hostaddr", "port", "dbname")

# What follows user and password in a URL, up to the query; libpq looks for their end as this does.
_AFTER_USER = re.compile(r"postgres(?:ql)?://(?:[^@/]*@)?([^?]*)")


# libpq takes UTF-8, and reads no further than a NUL, whatever follows.
_UNSENDABLE = re.compile("[\0\ud800-\udfff]")


def check_text(conninfo: str) -> None:
    """Raise ValueError for a conninfo that cannot be sent, which an error would carry whole."""
    if _UNSENDABLE.search(conninfo):
        raise ValueError(MALFORMED)


def check_address(conninfo: str, parsed: Mapping[str, Any]) -> None:
    """Raise ValueError for an address that is none: libpq would quote what may be a password.

    An unescaped "@" or "/" ends a URL's password early, and the rest of it is read as the host,
    the port or the database, which are in libpq's errors.
    """
    url = _AFTER_USER.match(conninfo)
    wrong = not_possible(parsed)
    if wrong in parsed and wrong not in _OF_ADDRESS:
        raise ValueError(
            f"{wrong} in the conninfo is not possible: it takes a whole number, and nothing that "
            "UTF-8 cannot hold"
        )
    if wrong or (url is not None and "@" in url.group(1)):
        raise ValueError(MALFORMED)


def check_kwargs(kwargs: Mapping[str, Any], own_conninfo: str) -> None:
    """Raise ValueError for an address in kwargs that is none, as `check_address` does.

    And TypeError for a second conninfo, in the driver's own argument for one: its password would
    be in the driver's errors, and nobody would look for timeouts and hosts in it.
    """
    if own_conninfo in kwargs:
        raise TypeError(
            f"{own_conninfo!r} in kwargs is not possible: it is the pool's first argument"
        )
    if wrong := not_possible(kwargs):
        raise ValueError(
            f"{wrong} in kwargs is not possible (it is not shown here, since it may hold a "
            "password): host takes names or addresses, hostaddr addresses, port numbers below "
            "65536, timeouts and keepalives whole numbers, dbname a name, the pool's first "
            "argument a whole URL, and none a NUL or what UTF-8 cannot hold"
        )


def not_possible(given: Mapping[str, Any]) -> str:
    """Return which option has a value that cannot be one, "" if each may be.

    What libpq would make of it, and quote, may be part of a password.
    """
    for name, value in given.items():
        if isinstance(value, str) and _UNSENDABLE.search(value):
            return str(name) if is_word(str(name)) else "a name"
    if wrong := _options.not_whole(given):
        return wrong
    for address in str(given.get("hostaddr") or "").split(","):
        if address and not _is_address(address):
            return "hostaddr"
    for host in str(given.get("host") or "").split(","):
        if "@" in host[1:]:  # at the start it means a socket in the abstract namespace
            return "host"
    for port in str(given.get("port") or "").split(","):
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            return "port"
    # The drivers do not read a URL there: the server would be asked for a database of that name.
    for name in ("dbname", "database"):  # the second is psycopg2's
        if "://" in str(given.get(name) or ""):
            return name
    return ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return not text.strip("0123456789.")  # 127.1 is one to libpq
    return True
