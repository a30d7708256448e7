"""How a pool opens connections to PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool._session import Reports
from dbpool.drivers.base import Driver

from ._marks import Marks
from ._opener import Opener
from ._raw_cursors import noticing

__all__ = ["PostgresOpener"]


class PostgresOpener(Opener):
    """Time zone and role are set once per connection, and nothing waits for ever on the network."""

    def __init__(
        self,
        driver: Driver,
        wrapper: BaseDatabaseWrapper,
        configure: Callable[[Any], object] | None,
        *,
        notices: bool,
    ) -> None:
        super().__init__(driver, wrapper, configure)
        # For `reset="auto"`: what the server reports of sessions, and what cursors have noticed.
        self._reports = Reports()
        self._notices = notices
        self.marks = Marks()
        self._noticing: dict[Any, Any] = {}

    def _adopt(self, conn: Any) -> None:
        super()._adopt(conn)
        if self._notices:
            conn.cursor_factory = self._noticing_one(conn.cursor_factory)
            if hasattr(conn, "server_cursor_factory"):  # psycopg 3's, for those with a name
                conn.server_cursor_factory = self._noticing_one(conn.server_cursor_factory)

    def _noticing_one(self, base: Any) -> Any:
        if base not in self._noticing:
            self._noticing[base] = noticing(base, self.marks)
        return self._noticing[base]

    def configure(self, conn: Any) -> None:
        """Give a connection Django's time zone and role, then what the user wants."""
        wrapper: Any = self._detached()
        # Django quotes a role's name through the wrapper, which would connect for that.
        wrapper.connection = conn
        try:
            wrapper._configure_connection(conn)
        finally:
            wrapper.connection = None  # nobody but the borrower holds it, or no slot comes back
        super().configure(conn)
        self._reports.remember(conn)
        self.marks.forget(conn)

    def has_drifted(self, conn: Any) -> bool:
        """Return whether the session is another than when it was configured, as far as is seen.

        No round trip: a cursor has noticed a statement, or was left open WITH HOLD, or the server
        has told of a change.
        """
        return self.marks.has(conn) or self._reports.differ(conn)
