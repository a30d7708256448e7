"""What a server is to a pool: a primary that has become read-only is of no use to it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..pool import ConnectionPool

__all__ = ["fits", "is_read_only"]


def is_read_only(pool: ConnectionPool, conn: Any) -> bool | None:
    """Return whether the server takes no writes, as it has last reported; None if unknown."""
    return pool._driver.read_only(conn)


def fits(pool: ConnectionPool, conn: Any) -> bool:
    """Return whether the server is what the pool is declared for, as far as that is known."""
    return pool.role != "primary" or not is_read_only(pool, conn)
