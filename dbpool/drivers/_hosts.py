"""Several hosts in one conninfo: the one that served last is tried first; and is it a primary?

libpq has no memory: with a dead first host of two, each connect pays the whole connect_timeout for
it. So the hosts are put in order before each connect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Host", "count", "in_order", "is_read_only"]

Host = tuple[str, str]  # name or address, and port, as the connection says them

_PORT = "5432"
_LISTS = ("host", "hostaddr", "port")


def count(given: Mapping[str, Any]) -> int:
    """Return how many hosts a conninfo has, as its parsed options say them."""
    return len(str(given.get("hostaddr") or given.get("host") or "").split(","))


def in_order(given: Mapping[str, Any], last: Host | None) -> dict[str, str]:
    """Return the options that put `last` before the other hosts; none if there is no need.

    Arguments: `given`, the parsed options. Hosts that the user has balanced stay as they are.
    """
    hosts = count(given)
    if last is None or hosts < 2 or given.get("load_balance_hosts") not in (None, "", "disable"):
        return {}
    lists = {name: str(given[name]).split(",") for name in _LISTS if given.get(name)}
    # One port stands for all; lists of other lengths are refused by libpq.
    ports = lists.get("port", [_PORT])
    if len(ports) == 1:
        lists["port"] = ports = ports * hosts
    names = lists.get("host") or lists["hostaddr"]
    if any(len(each) != hosts for each in lists.values()):
        return {}
    for at in range(hosts):
        if (names[at], ports[at] or _PORT) == last:
            if at == 0:
                return {}
            return {
                name: ",".join([each[at], *each[:at], *each[at + 1 :]])
                for name, each in lists.items()
            }
    return {}


def is_read_only(info: Any) -> bool | None:
    """Return whether the server takes no writes, as it has last reported; no round trip.

    None where it does not report that: before PostgreSQL 14, and behind some poolers. An idle
    server process reports a change with its next answer.
    """
    try:
        seen = [
            info.parameter_status(name)
            for name in ("in_hot_standby", "default_transaction_read_only")
        ]
    except Exception:
        return None  # it is closed
    if seen == [None, None]:
        return None
    return "on" in seen
