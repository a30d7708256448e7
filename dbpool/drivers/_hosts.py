"""Several hosts in one conninfo: the one that served last is tried first; and is it a primary?

libpq has no memory: with a dead first host of two, each connect pays the whole connect_timeout for
it. So the hosts are put in order before each connect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Host", "after", "count", "in_order", "is_read_only"]

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
    lists, at = _find(given, last)
    if not at:
        return {}
    return {name: ",".join([each[at], *each[:at], *each[at + 1 :]]) for name, each in lists.items()}


def after(given: Mapping[str, Any], tried: Host | None) -> dict[str, str]:
    """Return the options for the hosts that come after `tried`; none if there is no other."""
    lists, at = _find(given, tried)
    if at is None or at + 1 == count(given):
        return {}
    return {name: ",".join(each[at + 1 :]) for name, each in lists.items()}


def _find(given: Mapping[str, Any], host: Host | None) -> tuple[dict[str, list[str]], int | None]:
    """Return the lists of hosts and of what goes with them, and the place of one in them."""
    hosts = count(given)
    if host is None or hosts < 2 or given.get("load_balance_hosts") not in (None, "", "disable"):
        return {}, None
    lists = {name: str(given[name]).split(",") for name in _LISTS if given.get(name)}
    # One port stands for all; lists of other lengths are refused by libpq.
    ports = lists.get("port", [_PORT])
    if len(ports) == 1:
        lists["port"] = ports = ports * hosts
    names = lists.get("host") or lists["hostaddr"]
    if any(len(each) != hosts for each in lists.values()):
        return {}, None
    for at in range(hosts):
        if (names[at], ports[at] or _PORT) == host:
            return lists, at
    return {}, None


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
