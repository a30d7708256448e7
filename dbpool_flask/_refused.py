"""What the drivers' objects offer that ends a transaction without saying so, and is refused.

Where the extension believes in a transaction that is gone, it reports as committed what was rolled
back, or cannot undo what was committed. psycopg2 rolls back in these methods, sqlite3 commits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbpool.drivers.base import IDLE, UNKNOWN

if TYPE_CHECKING:
    from ._lease import ContextLease

__all__ = ["METHODS", "SETTINGS", "refuse"]

_TWO_PHASE = frozenset(("tpc_begin", "tpc_prepare", "tpc_commit", "tpc_rollback"))
METHODS = _TWO_PHASE | {"set_isolation_level", "set_client_encoding", "reset", "executescript"}
SETTINGS = frozenset(("isolation_level", "autocommit"))  # of sqlite3; the others refuse themselves


def refuse(name: str, lease: ContextLease) -> None:
    """Raise the driver's error if this would end what is open. It may change the session, too."""
    conn = lease.raw()
    if name in _TWO_PHASE:
        raise getattr(conn, "NotSupportedError", RuntimeError)(
            f"{name}() is refused: no end of a request or block completes a two-phase "
            "transaction. Use `with db.pools[name].connection() as connection:` for it"
        )
    # Past what a lease under db.test_isolation() says, whose transaction is a savepoint in one.
    if lease.pool.driver.transaction_status(conn) not in (IDLE, UNKNOWN):
        what = f"setting {name}" if name in SETTINGS else f"{name}()"
        raise getattr(conn, "ProgrammingError", RuntimeError)(
            f"{what} would end the transaction that is open here, and tell nobody, so it is "
            "refused as long as there is one: call db.commit() or db.rollback() before it"
        )
    if lease.watch is not None:
        lease.watch.saw_raw(conn)
