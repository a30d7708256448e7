"""What the pool needs to know of a database driver: one small class, one file per driver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .._runtime import sockets
from ._bare import bare

__all__ = [
    "ACTIVE",
    "BUGS",
    "CLOSED",
    "CLOSED_IN_TRANSACTION",
    "IDLE",
    "INERROR",
    "INTRANS",
    "LOST",
    "MISCONFIGURED",
    "PERMANENT",
    "REASONS",
    "UNKNOWN",
    "Driver",
    "Mistake",
    "Parameters",
    "bare",
]

# The server's transaction status, as libpq numbers it.
IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN = range(5)

# How a connection came to be UNKNOWN: by a close() of its borrower, or by the loss of its link.
CLOSED, CLOSED_IN_TRANSACTION, LOST = "closed", "closed in a transaction", "lost"
MISCONFIGURED = "misconfigured"  # the reason of a failure that is the configuration's doing

# Why a connect failed: a closed list, the only words about it that a health page may show.
REASONS = frozenset(
    (
        "auth",
        "connect_failed",
        "connect_refused",
        "connect_timeout",
        "dns",
        MISCONFIGURED,
        "server_shutdown",
        "tls",
        "too_many_connections",
        "unknown_database",
    )
)

# Python's own errors for calls and code that are wrong: no server and no network raises them.
BUGS = (
    *(TypeError, ValueError, LookupError, AttributeError, NameError, ImportError),
    *(AssertionError, ArithmeticError),
)

# Reasons that no retry mends: every waiter learns of them at once.
PERMANENT = frozenset(("auth", MISCONFIGURED, "unknown_database"))


class Parameters(NamedTuple):
    """What one connect is made with."""

    kwargs: Mapping[str, Any]  # for `Driver.connect`
    address: Any  # what decides which server it is; None where the driver has no notion of one
    seconds: float  # how long the connect may take


class Mistake(NamedTuple):
    """What is wrong with a conninfo or kwargs that a connect has failed by."""

    said: str  # a clause that names the option, and quotes nothing but words
    quotes: bool = False  # whether the text of the driver's error may quote a secret


class Driver(ABC):
    """One database driver. Stateless and thread-safe; a connection is used by one thread at once.

    Calls that talk to the server may block: the pool bounds each of them by a deadline, after
    which it shuts the connection's socket down from another thread.

    A driver of your own is a subclass, or any object with the same methods. It has to have `name`,
    `OperationalError`, `check_conninfo`, `connect`, `close`, `fileno`, `transaction_status`,
    `attributes`, `settled`, `restore`, `commit`, `rollback`, `discard_session`, `ping`, `probe`,
    `reason` and `is_disconnect`. What it lacks of the others is as it is here.
    """

    name: str
    OperationalError: type[Exception]
    name_option: str = ""  # the argument of `connect` that names a session on the server
    takes_settings: bool = False  # whether `with_settings` is possible
    reports_statements: bool = False  # whether its cursors can tell what they execute

    @abstractmethod
    def check_conninfo(self, conninfo: str) -> None:
        """Raise ValueError, quoting nothing of it, if `conninfo` is malformed."""

    def check_kwargs(self, kwargs: Mapping[str, Any]) -> None:  # noqa: B027
        """Raise TypeError or ValueError for kwargs of a pool that `connect` would refuse."""

    # What a connect is made with. `parameters` is all that the pool asks; the methods after it are
    # its parts, for drivers that differ in one of them.

    def parameters(
        self,
        conninfo: str,
        kwargs: Mapping[str, Any],
        *,
        settings: Mapping[str, float],
        last_host: Any,
        primary: bool,
        timeout: float,
        name: str,
    ) -> Parameters:
        """Return what the next connect is to be made with: asked once for each, and just before.

        Arguments: `settings`, server settings by name, in seconds; `last_host`, what `host`
        returned for the connection made last, or None; `primary`, whether only a server that takes
        writes will do; `timeout` and `name`, which the user's own win over.
        """
        address = self.address(conninfo, kwargs)
        seconds = self.connect_seconds(conninfo, kwargs, timeout)
        if settings:
            kwargs = self.with_settings(conninfo, kwargs, settings)
        kwargs = self.routed(conninfo, kwargs, last_host, primary)
        return Parameters(self.with_defaults(conninfo, kwargs, timeout, name), address, seconds)

    def address(self, conninfo: str, kwargs: Mapping[str, Any]) -> Any:
        """Return what decides which server is connected to; None: it is not known."""
        return None

    def connect_seconds(self, conninfo: str, kwargs: Mapping[str, Any], timeout: float) -> float:
        """Return how long `connect` may take: `timeout`, or longer if the user has said so."""
        return timeout

    def with_settings(
        self, conninfo: str, kwargs: Mapping[str, Any], settings: Mapping[str, float]
    ) -> Mapping[str, Any]:
        """Return `kwargs` with server settings by name, in seconds."""
        raise NotImplementedError(f"the driver {self.name!r} has no server settings")

    def routed(
        self, conninfo: str, kwargs: Mapping[str, Any], last: Any, primary: bool
    ) -> Mapping[str, Any]:
        """Return `kwargs` with the hosts in the order in which they are to be tried."""
        return kwargs

    def with_defaults(
        self, conninfo: str, kwargs: Mapping[str, Any], timeout: float, name: str
    ) -> Mapping[str, Any]:
        """Return `kwargs` with the defaults of a pool for what the user has not set."""
        return kwargs

    def endpoints(self, address: Any) -> list[tuple[str, str]]:
        """Return hosts and ports of an `address`, to see whether anything answers there."""
        return []

    def place(self, address: Any) -> str:
        """Return an `address` in words, for an operator; "" if there is nothing to say."""
        return ""

    @abstractmethod
    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        """Open a connection within about `timeout` seconds; `name` is the application_name.

        `kwargs` and `timeout` are what `parameters` has returned; the conninfo and the name are
        what it was given.
        """

    def adopt(self, conn: Any) -> Any:
        """Take over a connection that somebody else has opened for a pool; return it."""
        return conn

    def forget_password(self, error: BaseException | None) -> None:  # noqa: B027
        """Take out of an error of a connect what it holds of the connection's parameters."""

    def host(self, conn: Any) -> Any:
        """Return which of several hosts it is connected to; None if that is of no use."""
        return None

    def read_only(self, conn: Any) -> bool | None:
        """Return whether the server has reported that it takes no writes; None: it does not say."""
        return None

    def canceller(self, conn: Any) -> Callable[[], None] | None:
        """Return what ends the statement that runs there, for another thread to call, or None."""
        return None

    def cut_off(self, conn: Any) -> bool:
        """End what the connection waits for, from another thread. True: it may be needed again.

        A socket is shut down. SQLite has none: the statement that runs is cancelled.
        """
        if self.fileno(conn) is not None:
            # The call inside may close it at any moment, and its number be somebody else's.
            sockets.sever_of(self, conn)
        elif self.transaction_status(conn) != UNKNOWN:  # open, without a socket
            cancel = self.canceller(conn)
            if cancel is not None:
                cancel()
                return True
        return False

    def pool_closed(self) -> None:  # noqa: B027
        """Let go of what is kept for as long as the pool lives: it has closed."""

    def replace_close(self, conn: Any, call: Callable[[], object] | None) -> None:
        """Have the connection's own close() call this instead, None for itself again.

        Raises AttributeError or TypeError where that is not possible.
        """
        own = bare(conn)
        if call is not None:
            own.close = call
        else:
            vars(own).pop("close", None)

    @abstractmethod
    def close(self, conn: Any) -> None:
        """Close it; harmless on one that is closed or broken."""

    @abstractmethod
    def fileno(self, conn: Any) -> int | None:
        """Return the descriptor of its socket, None if it has none (any more)."""

    @abstractmethod
    def transaction_status(self, conn: Any) -> int:
        """Return IDLE (0), ACTIVE, INTRANS, INERROR or UNKNOWN (broken); no round trip."""

    def how_closed(self, conn: Any) -> str:
        """Return CLOSED, CLOSED_IN_TRANSACTION, or LOST: also where that cannot be told apart."""
        return LOST

    def in_autocommit(self, conn: Any) -> bool:
        """Return whether each statement commits by itself; also of one that is closed."""
        return False

    @abstractmethod
    def attributes(self, conn: Any) -> Any:
        """Return the session attributes that a borrower may change; no round trip."""

    @abstractmethod
    def settled(self, conn: Any, attributes: Any) -> bool:
        """Return whether it is idle and its attributes are those; runs at each return.

        May let go of what the borrower left locally; no round trip.
        """

    @abstractmethod
    def restore(self, conn: Any, attributes: Any) -> None:
        """Put back what `attributes` returned; the connection is not in a transaction."""

    @abstractmethod
    def commit(self, conn: Any) -> None:
        """Commit what is open."""

    @abstractmethod
    def rollback(self, conn: Any) -> None:
        """Roll back what is open on the server, in autocommit mode too."""

    @abstractmethod
    def discard_session(self, conn: Any) -> None:
        """Forget all session state (`DISCARD ALL`); the connection is not in a transaction."""

    @abstractmethod
    def ping(self, conn: Any) -> None:
        """Make one round trip that leaves nothing behind; raise if the server does not answer."""

    @abstractmethod
    def probe(self, conn: Any) -> bool:
        """Make the health query; return whether the server accepts writes."""

    @abstractmethod
    def reason(self, error: BaseException) -> str:
        """Return a word of REASONS for an error of `connect`."""

    def mistake(
        self, error: BaseException, conninfo: str, kwargs: Mapping[str, Any]
    ) -> Mistake | None:
        """Return what is wrong with what `connect` was given, if that is why it failed.

        None where it is the server's doing, or the network's, or cannot be told from that.
        """
        if not isinstance(error, BUGS) or isinstance(error, self.OperationalError):
            return None
        try:
            self.check_conninfo(conninfo)
            self.check_kwargs(kwargs)
        except (TypeError, ValueError) as wrong:  # of which it is known that it quotes nothing
            return Mistake(str(wrong))
        return Mistake(f"connect raised {type(error).__name__}: see the cause")

    def timed_out(
        self, error: BaseException, seconds: float, conninfo: str, kwargs: Mapping[str, Any]
    ) -> bool:
        """Return whether a connect has failed after `seconds` because nothing answered in time."""
        return self.reason(error) == "connect_timeout"

    def refusal(self, conninfo: str, kwargs: Mapping[str, Any]) -> str | None:
        """Connect once more, and return the word of REASONS for what the server refuses it with.

        Asked where `reason` does not know the words of a refusal: they may be of any language.
        "connect_failed" for a refusal that has no word; None for none by a server. Raises
        TimeoutError if nothing answers.
        """
        return None

    @abstractmethod
    def is_disconnect(self, conn: Any, error: BaseException) -> bool:
        """Return whether `error` means that the connection is of no further use."""
