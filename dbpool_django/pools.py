"""The pools of this process: one per set of connection parameters, used by all threads."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import connections

from dbpool import ConnectionPool
from dbpool.adapters import after_fork, start_anew, unforked

from . import _settings

if TYPE_CHECKING:
    from ._loan import Supplier
    from ._wrapper import PooledWrapper

__all__ = ["all_pools", "close_alias", "close_database", "supplier_for"]


@dataclass
class _Known:
    """A pool, and whose it is: aliases with equal settings (a MIRROR) share one."""

    supplier: Supplier
    database: str | None
    aliases: set[str] = field(default_factory=set)


# Guards _pools. Re-entrant, since a signal handler may query while it is held.
_lock = threading.RLock()
_pools: dict[Hashable, _Known] = {}


def all_pools() -> Mapping[str, ConnectionPool]:
    """Return the pool of each alias in DATABASES that has one, by alias, in that order.

    Pools that did not exist yet are made; none waits for a connection. Aliases with equal settings
    have the same pool. Ask again each time: `close_pool()` and the test runner replace pools.
    Raises ImproperlyConfigured for wrong settings. Any thread may call this.
    """
    found = {}
    for alias in connections:
        # A wrapper of its own: `connections[alias]` would tie one to the thread of a probe.
        wrapper: Any = connections.create_connection(alias)
        if hasattr(type(wrapper), "_dbpool_stamp") and wrapper.pool is not None:
            found[alias] = wrapper.pool
    return found


def supplier_for(wrapper: PooledWrapper) -> Supplier:
    """Return who supplies a wrapper with these settings; make a pool if none is open."""
    unforked or start_anew()  # a thread that does not exist here may have the lock
    settings = wrapper.settings_dict
    key = (type(wrapper), *map(_settings.frozen, wrapper._dbpool_stamp()))
    with _lock:
        known = _pools.get(key)
        if known is None or known.supplier.pool.closed:
            known = _pools[key] = _Known(wrapper._dbpool_make(), settings["NAME"])
        known.aliases.add(wrapper.alias)
        return known.supplier


def close_alias(alias: str) -> None:
    """Close every pool that serves this alias; the next request that queries makes a new one."""
    _close([key for key, known in list(_pools.items()) if alias in known.aliases], 0.0)


def close_database(name: str | None, timeout: float = 5.0) -> None:
    """Close every pool on the database of this name, whatever alias it serves.

    For a database that is about to be copied or dropped: waits up to `timeout` seconds for
    connects under way.
    """
    _close([key for key, known in list(_pools.items()) if known.database == name], timeout)


def _close(keys: list[Hashable], timeout: float) -> None:
    unforked or start_anew()
    for key in keys:
        with _lock:
            known = _pools.pop(key, None)
        if known is not None:
            known.supplier.pool.close(timeout)


def _start_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # a thread that does not exist here may have held the old one


after_fork(_start_in_child)
