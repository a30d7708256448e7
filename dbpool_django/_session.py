"""Which statements change the session beyond their transaction: the core knows them."""

from __future__ import annotations

from dbpool.drivers._session import changes_session

__all__ = ["changes_session"]
