"""The driver's cursors that were made on a lent connection, and end with it."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from . import _dialect

__all__ = ["close_all", "close_quietly"]

logger = logging.getLogger("dbpool.flask")


def close_all(cursors: list[weakref.ref[Any]]) -> bool:
    """Close the cursors. True if one survives on the server (WITH HOLD)."""
    survives = False
    for ref in cursors:
        cursor = ref()
        if cursor is None:
            continue
        name = getattr(cursor, "name", None)
        if name is None:
            close_quietly(cursor)
        elif getattr(cursor, "withhold", False) and not cursor.closed:
            survives = True
        else:  # which has ended with its transaction
            _dialect.close_locally(cursor)
    cursors.clear()
    return survives


def close_quietly(cursor: Any) -> None:
    """Close one; never raises an Exception."""
    try:
        cursor.close()
    except Exception:
        logger.debug("closing a cursor failed", exc_info=True)
