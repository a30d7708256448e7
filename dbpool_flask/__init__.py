"""Flask on a dbpool connection pool."""

from __future__ import annotations

from ._errors import ConnectionReleased
from ._extension import DBPool
from ._fence import FencedConnection, FencedCursor

__all__ = ["ConnectionReleased", "DBPool", "FencedConnection", "FencedCursor"]
