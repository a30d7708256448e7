"""`close_returns=True`: close() of a connection that somebody has taken by getconn() returns it.

For code that knows no pool and closes what it has been given, such as SQLAlchemy's NullPool. As in
psycopg_pool.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ..drivers.base import Mistake

if TYPE_CHECKING:
    from .._store.attempt import Attempt
    from ..pool import ConnectionPool

__all__ = ["attach"]


class _Close:
    """What stands in the place of a connection's own close(). It holds neither it nor the pool."""

    __slots__ = ("_conn", "_driver", "_pool")

    def __init__(self, pool: ConnectionPool, conn: Any) -> None:
        self._driver = pool._driver
        self._pool = pool._ref
        self._conn = weakref.ref(conn)

    def __call__(self) -> None:
        pool, conn = self._pool(), self._conn()
        if conn is None:
            return
        entry = None if pool is None else pool._store.in_use.get(id(conn))
        if pool is not None and entry is not None and entry() is conn:
            pool.putconn(conn)
            return
        # The pool itself closes it, or nobody is left to return it to.
        self._driver.replace_close(conn, None)
        try:
            conn.close()
        finally:
            self._driver.replace_close(conn, self)  # it may be opened anew


def attach(pool: ConnectionPool, conn: Any, attempt: Attempt | None = None) -> None:
    """Have close() return this connection. Raises TypeError where that is not possible.

    Arguments: `attempt`, of one that is new.
    """
    try:
        pool._driver.replace_close(conn, _Close(pool, conn))
    except (AttributeError, TypeError):
        error = TypeError(
            f"close_returns=True is not possible with connections of type {type(conn).__name__}: "
            "their close() cannot be replaced"
        )
        if attempt is not None:
            attempt.mistake = Mistake(str(error))
        raise error from None
