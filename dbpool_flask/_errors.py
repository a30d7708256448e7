"""The errors that only this adapter raises; all others are those of `dbpool`."""

from __future__ import annotations

from dbpool import PoolError

__all__ = ["CAUGHT", "ConnectionReleased", "released"]

# For `ContextLease.aborted`: why, and what to do.
CAUGHT = (
    "a database error was caught, and what it had broken was not undone",
    (
        ". Put `with db.transaction():` around the statement that may fail, within the `try`: "
        "then only that is undone. Or let the error through"
    ),
)


class ConnectionReleased(PoolError):
    """A connection, or a cursor made through it, was used after it had gone back to its pool."""


def released() -> ConnectionReleased:
    """Return the error for a use after the end."""
    return ConnectionReleased(
        "this connection went back to its pool when its request or app context ended, and may "
        "serve somebody else now. Fetch what a streamed answer needs before the view returns, or "
        "read db.connection again where you need one"
    )
