"""What is undone at the end of a context although nobody was told of an error: the log says so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import flask

if TYPE_CHECKING:
    from flask import Response

    from ._scope import Scope

__all__ = ["losing_at_end", "tell_of_loss"]

logger = logging.getLogger("dbpool.flask")


def losing_at_end(scope: Scope, commit: bool) -> list[str]:
    """Return the databases on which the end of a request undoes what somebody counts on.

    Those of a view that commits for itself and has not, and those of a block in an error handler.
    A round trip for each that has something open; no other request pays for it.
    """
    if commit:
        mode = scope.mode
        return [] if mode.commits or mode.autocommit or mode.read_only else scope.losing()
    return scope.losing() if scope.kept_block else []


def tell_of_loss(names: list[str], response: Response | None, failed: bool = False) -> None:
    """Log what is undone without anybody having been told of an error."""
    what = f"what was written on {', '.join(map(repr, names))}"
    if response is None:
        logger.warning(
            "%s was not committed before its app context, or copied request context, ended: it "
            "is rolled back. Outside of a request use `with db.transaction():` or db.commit()",
            what,
        )
    elif failed:
        logger.warning(
            "%s by the error handler of %s %r, a `with db.transaction()` block included, is rolled "
            "back with its answer, %d: db.commit() in the handler keeps it",
            what,
            flask.request.method,
            flask.request.path,
            response.status_code,
        )
    else:
        logger.warning(
            "%s by %s %r was not committed by its view, which commits for itself (@db.manual, or "
            "DBPOOL_TRANSACTION): it is rolled back, and the answer is %d. Use db.commit() or "
            "`with db.transaction():`",
            what,
            flask.request.method,
            flask.request.path,
            response.status_code,
        )
