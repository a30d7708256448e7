"""How a pool opens connections to PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from dbpool.adapters import SessionWatch
from dbpool.drivers.base import Driver

from ._opener import Opener

__all__ = ["PostgresOpener"]


class PostgresOpener(Opener):
    """Time zone and role are set once per connection, and nothing waits for ever on the network."""

    watch: SessionWatch

    def __init__(
        self,
        driver: Driver,
        wrapper: BaseDatabaseWrapper,
        configure: Callable[[Any], object] | None,
        *,
        notices: bool,
    ) -> None:
        super().__init__(driver, wrapper, configure)
        self.watch = SessionWatch()
        self._notices = notices

    def _adopt(self, conn: Any) -> None:
        super()._adopt(conn)
        if self._notices:
            self.watch.attach(conn)

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
        self.watch.remember(conn)
