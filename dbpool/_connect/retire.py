"""The end of a connection: retired by the pool, dropped by a borrower, or left by a dead owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import growth

if TYPE_CHECKING:
    from .._store.entry import Entry
    from ..pool import ConnectionPool

__all__ = ["find_lost", "reclaim", "retire"]


def retire(pool: ConnectionPool, held: tuple[Any, Entry], reason: str) -> None:
    """Close a connection that is ours alone, free its slot whatever happens, and fill that."""
    pool._store.close(held, reason)
    if pool._queue.waiters or pool._store.min_size:
        growth.grow(pool)


def reclaim(pool: ConnectionPool) -> None:
    """Take back what is lent to owners that are dead; called when the pool is exhausted."""
    store = pool._store
    for entry in list(store.in_use.values()):
        owner = entry.owner
        if owner is None or owner[0] != entry.uses or owner[1].is_alive():
            continue
        if store.in_use.pop(entry.key, None) is entry:
            with store.lock:
                store.counters.count_leaks(1)
            entry.count_loan()
            retire(pool, (entry(), entry), "abandoned")


def find_lost(pool: ConnectionPool) -> None:
    """Free the slots of connections that were dropped without being returned, and fill them."""
    if pool._store.drop_lost():
        growth.grow(pool)
