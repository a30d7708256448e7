"""What the pool needs to know of a database driver: one small protocol, one file per driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["ACTIVE", "IDLE", "INERROR", "INTRANS", "PERMANENT", "REASONS", "UNKNOWN", "Driver"]

# The server's transaction status, as libpq numbers it.
IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN = range(5)

# Why a connect failed: a closed list, the only words about it that a health page may show.
REASONS = frozenset(
    (
        "auth",
        "connect_failed",
        "connect_refused",
        "connect_timeout",
        "dns",
        "server_shutdown",
        "tls",
        "too_many_connections",
        "unknown_database",
    )
)

# Reasons that no retry mends: every waiter learns of them at once.
PERMANENT = frozenset(("auth", "unknown_database"))


class Driver(Protocol):
    """One database driver. Stateless and thread-safe; a connection is used by one thread at once.

    Calls that talk to the server may block: the pool bounds each of them by a deadline, after
    which it shuts the connection's socket down from another thread.

    May be there as well: `name_option`, the argument of `connect` that names a session on the
    server; `check_kwargs(kwargs)`, which raises TypeError or ValueError when a pool is made with
    what `connect` would refuse; `connect_seconds(conninfo, kwargs, timeout)`, how long `connect`
    may take where that is more than `timeout`; `address(conninfo, kwargs)`, what decides which
    server is connected to; `endpoints(address)`, hosts and ports of that, for a look at whether
    anything answers there; `canceller(conn)`, which returns a function that has the server end
    the statement that runs there, for another thread to call, or None;
    `with_settings(conninfo, kwargs, settings)`, `kwargs` with server settings by name, in seconds;
    `routed(conninfo, kwargs, last, primary)`, `kwargs` for the next connect, where `last` is what
    `host(conn)` returned for the last one; `read_only(conn)`, whether the server has reported that
    it takes no writes, None if it reports nothing; `pool_closed()`, called when the pool has
    closed, where the driver keeps something for as long as it lives.
    """

    name: str
    OperationalError: type[Exception]

    def check_conninfo(self, conninfo: str) -> None:
        """Raise ValueError, quoting nothing of it, if `conninfo` is malformed."""

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection within about `timeout` seconds; `name` is the application_name."""

    def close(self, conn: Any) -> None:
        """Close it; harmless on one that is closed or broken."""

    def fileno(self, conn: Any) -> int | None:
        """Return the descriptor of its socket, None if it has none (any more)."""

    def transaction_status(self, conn: Any) -> int:
        """Return IDLE (0), ACTIVE, INTRANS, INERROR or UNKNOWN (broken); no round trip."""

    def attributes(self, conn: Any) -> Any:
        """Return the session attributes that a borrower may change; no round trip."""

    def settled(self, conn: Any, attributes: Any) -> bool:
        """Return whether it is idle and its attributes are those; runs at each return.

        May let go of what the borrower left locally; no round trip.
        """

    def restore(self, conn: Any, attributes: Any) -> None:
        """Put back what `attributes` returned; the connection is not in a transaction."""

    def commit(self, conn: Any) -> None:
        """Commit what is open."""

    def rollback(self, conn: Any) -> None:
        """Roll back what is open on the server, in autocommit mode too."""

    def discard_session(self, conn: Any) -> None:
        """Forget all session state (`DISCARD ALL`); the connection is not in a transaction."""

    def ping(self, conn: Any) -> None:
        """Make one round trip that leaves nothing behind; raise if the server does not answer."""

    def probe(self, conn: Any) -> bool:
        """Make the health query; return whether the server accepts writes."""

    def reason(self, error: BaseException) -> str:
        """Return a word of REASONS for an error of `connect`."""

    def is_disconnect(self, conn: Any, error: BaseException) -> bool:
        """Return whether `error` means that the connection is of no further use."""
