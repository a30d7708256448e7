"""What a server is to a pool: a primary that has become read-only is of no use to it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..drivers.base import Driver

__all__ = ["fits"]


def fits(driver: Driver, role: str | None, conn: Any) -> bool:
    """Return whether the server is what the pool is declared for, as far as it has reported.

    Arguments: `role`, the option of the pool.
    """
    return role != "primary" or not driver.read_only(conn)
