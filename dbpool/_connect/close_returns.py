"""`close_returns=True`: close() of a connection that somebody has taken by getconn() returns it.

For code that knows no pool and closes what it has been given, such as SQLAlchemy's NullPool. As in
psycopg_pool.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..drivers.base import Mistake

if TYPE_CHECKING:
    from .._store.attempt import Attempt
    from ..drivers.base import Driver

__all__ = ["attach"]


class _Close:
    """What stands in the place of a connection's own close(). It holds neither it nor the pool."""

    __slots__ = ("_conn", "_driver", "_give_back")

    def __init__(self, driver: Driver, conn: Any, give_back: Callable[[Any], bool]) -> None:
        self._driver = driver
        self._give_back = give_back
        self._conn = weakref.ref(conn)

    def __call__(self) -> None:
        conn = self._conn()
        if conn is None or self._give_back(conn):
            return
        # The pool itself closes it, or nobody is left to return it to.
        self._driver.replace_close(conn, None)
        try:
            conn.close()
        finally:
            self._driver.replace_close(conn, self)  # it may be opened anew


def attach(
    driver: Driver, conn: Any, give_back: Callable[[Any], bool], attempt: Attempt | None = None
) -> None:
    """Have close() return this connection. Raises TypeError where that is not possible.

    Arguments: `give_back`, which returns a lent connection to its pool, and False for any other;
    `attempt`, of one that is new.
    """
    try:
        driver.replace_close(conn, _Close(driver, conn, give_back))
    except (AttributeError, TypeError):
        error = TypeError(
            f"close_returns=True is not possible with connections of type {type(conn).__name__}: "
            "their close() cannot be replaced"
        )
        if attempt is not None:
            attempt.mistake = Mistake(str(error))
        raise error from None
