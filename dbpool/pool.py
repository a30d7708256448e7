"""The pool: acquire and return, the sizes, open and close."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Mapping
from threading import get_ident
from types import GenericAlias
from typing import TYPE_CHECKING, Any, TypeVar

from . import drivers, options, stats
from ._connect.connector import Connector
from ._connect.failure import Failures
from ._connect.growth import Growth
from ._connect.outage import Outage
from ._connect.replies import Replies
from ._lend import fill
from ._lend.acquire import Lender
from ._lend.give_back import Returns
from ._lend.loan import Lease, ReturningLease
from ._lend.refusal import Refusals
from ._lend.transaction import Transactions
from ._lend.waiting import Waiting
from ._runtime import forks
from ._runtime.clock import monotonic
from ._runtime.frames import forget_locals
from ._runtime.process import notices_forks, start_anew, unforked
from ._runtime.runner import Background, InCaller, Runner
from ._runtime.scheduler import keeper
from ._store.admission import Admission
from ._store.handoff import FREE_THREADED, Handoff
from ._store.inventory import Inventory
from ._store.settings import Settings
from ._upkeep.cleaning import Cleaner
from ._upkeep.lifecycle import Lifecycle, closed_error
from ._upkeep.max_use import UseLimit
from ._upkeep.session import SessionWatch
from ._upkeep.sweep import Sweep
from ._upkeep.usable import Inspector
from .drivers.base import IDLE
from .errors import PoolError, for_driver

if TYPE_CHECKING:
    from typing import Generic

    from typing_extensions import TypeVar as TypeVarWithDefault
    from typing_extensions import Unpack

    from .drivers.base import Driver
    from .options import PoolOptions

__all__ = ["ConnectionPool"]

_numbers = itertools.count(1)


def _not_lent() -> object:
    """Stand for the entry of a connection that is not lent: `entry() is conn` is then False.

    Not None, because a caller may give None back.
    """
    return _not_lent


_NOT_LENT: Any = _not_lent
_E = TypeVar("_E", bound=PoolError)


if TYPE_CHECKING:
    Conn = TypeVarWithDefault("Conn", default=Any)

    class _Typed(Generic[Conn]):
        """For type checkers: `ConnectionPool[psycopg.Connection]` says what `getconn` returns."""

else:
    Conn = TypeVar("Conn")

    class _Typed:
        """At run time the brackets are for annotations, and change nothing."""

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)


class ConnectionPool(_Typed[Conn]):
    """A fair, fork-safe pool of database connections for threads.

    Arguments: `conninfo`, a URL or libpq string, or a callable that returns one (called at each
    connect, in a thread of the pool); `driver`, "psycopg2", "psycopg", "sqlite3" or a `Driver` of
    the user's own, where the URL's scheme should not decide; `kwargs` for the driver's connect
    function, a mapping or a callable that returns one; `options`, see `dbpool.options.OPTIONS`.
    Times are in seconds.

    Raises TypeError for an unknown option; ValueError for an impossible value, an unknown scheme
    or a malformed conninfo; ModuleNotFoundError for a driver that is not installed. No error, log
    line or repr contains the conninfo.

    All methods may be called from any thread.
    """

    # What each acquire and return reads: a slot is found sooner than a key of a large dictionary.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_idle",
        "_in_use",
        "_settled",
        "_take",
        "_validate_after",
        "_waiters",
    )

    def __init__(
        self,
        conninfo: str | Callable[[], str] = "",
        *,
        driver: str | Driver | None = None,
        kwargs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        **options_: Unpack[PoolOptions],
    ) -> None:
        try:
            values = options.checked(options_)
            self._driver, conninfo, kwargs = drivers.accepted(conninfo, driver, kwargs)
            if values["check"] is self.check_connection:  # psycopg_pool's; the pool knows how
                values["check"], values["validate"] = None, "ping"
            watch = self._watch_of(values)
            self.settings = Settings.of(values, values["name"] or f"pool-{next(_numbers)}")
            if self.settings.server and not self._driver.takes_settings:
                raise ValueError(
                    f"{', '.join(self.settings.server)}: the driver {self._driver.name!r} has no "
                    "such setting"
                )
            self._build(values, conninfo, kwargs)
        except BaseException as error:
            forget_locals(error)
            raise
        finally:
            del conninfo, driver, kwargs, options_  # what follows may fail, too
        self._reset = watch or (None if values["reset"] == "rollback" else values["reset"])
        self._settled = self._driver.settled
        self._validate_after = self.settings.validate_after
        self._clear()
        unforked or start_anew()  # it is not the parent's, as all are that are known by now
        forks.watch(self)
        if values["open"]:
            self.open()

    def _watch_of(self, values: dict[str, Any]) -> SessionWatch | None:
        """Return what `reset="auto"` needs, and have each new connection watched."""
        if values["reset"] != "auto":
            return None
        if not self._driver.reports_statements:
            raise ValueError(
                f"reset='auto' is not possible with the driver {self._driver.name!r}, which does "
                "not tell what its cursors execute: it takes 'rollback', 'discard' or a callable"
            )
        watch = SessionWatch(values["configure"])
        values["configure"] = watch.begin
        return watch

    def _build(
        self,
        values: Mapping[str, Any],
        conninfo: str | Callable[[], str],
        kwargs: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    ) -> None:
        """Put the rooms together, from the bottom up. None refers back to the pool."""
        settings, ref = self.settings, weakref.ref(self)
        self._runner: Runner = Background() if values["background"] else InCaller()
        self._outage = outage = Outage(
            settings.name,
            settings.max_connecting,
            settings.down_wait,
            settings.reconnect_timeout,
            wake=_waker(self._runner),
        )
        self._store = store = Inventory(
            settings.name,
            self._driver,
            values["min_size"],
            values["max_size"],
            emptied=outage.emptied,
        )
        admission: Admission | None = None
        if values["admission"] == "codel":
            admission = Admission(
                settings.name, values["admission_target"], values["admission_interval"]
            )
        self._queue = queue = Handoff(store, values["reuse"], admission)
        self._use_limit: UseLimit | None = None
        if values["max_use"] is not None:
            self._use_limit = UseLimit(store, values["max_use"])
        self._lease = ReturningLease if values["close_returns"] else Lease
        self._give_back = _returner(ref) if values["close_returns"] else None
        replies = Replies(store, settings.role)
        failures = Failures(
            queue, outage, replies, self._runner, _caller(ref, values["reconnect_failed"])
        )
        self._connector = Connector(
            queue,
            outage,
            settings,
            self._runner,
            replies,
            failures,
            conninfo,
            kwargs,
            self._give_back,
        )
        self._growth = growth = Growth(self._connector)
        self._cleaner = Cleaner(store, settings, self._runner)
        self._sweep = sweep = Sweep(growth, replies)
        self._inspector = Inspector(sweep, self._cleaner, failures)
        self._lifecycle = Lifecycle(self._inspector)
        refusals = Refusals(queue, outage, settings)
        self._waiting = Waiting(growth, refusals)
        self._transactions = Transactions(self._cleaner, refusals)
        self._lender = Lender(self._inspector, self._waiting)
        self._returns = Returns(sweep, self._cleaner)

    def _clear(self) -> None:
        """Start with nothing; also in a forked child, where the old locks may be held for ever."""
        self._store.clear()
        self._queue.clear()
        self._outage.clear()
        self._sweep.clear()
        # What each acquire and return reads: the very same objects, one attribute nearer.
        self._in_use = self._store.in_use
        self._idle, self._take = self._queue.idle, self._queue.take
        self._waiters = self._queue.waiters
        self._popped: dict[str, Any] = {}

    # -- acquire and return

    def getconn(self, timeout: float | None = None) -> Conn:
        """Take a connection: the driver's own object, no proxy.

        Arguments: `timeout`, seconds to wait, instead of the pool's; 0 or less takes an idle
        connection or raises at once. Where one has to be asked first (a ping past ping_after, or
        `check`), that takes what is left of it, and up to 0.05 s if less is left: one that does
        not answer by then is closed.
        Raises PoolTimeout, TooManyRequests, PoolClosed, or ConnectFailed where waiting cannot
        help; each is also the driver's OperationalError.
        """
        unforked or start_anew()
        if not self._idle:  # asked first: an IndexError costs as much as all of this
            conn, entry, now = self._lender.acquire(timeout)
        else:
            take = self._take  # a local name, here and below: CPython looks methods up first
            try:
                conn, entry = take()
            except IndexError:  # somebody was quicker
                conn, entry, now = self._lender.acquire(timeout)
            else:
                now = monotonic()
                if now >= entry.good_until:
                    conn, entry, now = self._lender.look_again((conn, entry), now, timeout)
        entry.since = now
        entry.uses += 1.0
        self._in_use[entry.key] = entry  # after both: max_use and reclaim read them from there
        entry.holder = get_ident()
        return conn  # type: ignore[no-any-return]

    def putconn(self, conn: Conn, close: bool = False) -> None:
        """Give a connection back; roll back what it left open.

        Arguments: `close`, whether to close it instead of keeping it.
        Raises ValueError for a connection that is not lent by this pool (returned twice, or of
        another pool); that harms nothing. Once it has been lent again to somebody else, a second
        return cannot be told from theirs: `connection()` never returns twice.
        """
        unforked or start_anew()
        entry = self._in_use.pop(id(conn), _NOT_LENT)
        if entry() is not conn:
            self._refuse(conn, entry)
            return
        settled = self._settled
        now = monotonic()
        used = now - entry.since
        entry.used += used
        entry.since = now
        if used >= 0.001:
            entry.observe(used)
        if (
            close
            or not settled(conn, entry.attributes)
            or entry.holder != get_ident()
            or self._reset is not None
        ):
            if not self._returns.accept(entry, conn, close, self._reset):
                return
            now = monotonic()
        if now >= entry.renew_at and not entry.renew(now, self._validate_after):
            self._growth.retire((conn, entry), entry.why)
            return
        waiters = self._waiters
        if waiters:
            self._queue.offer((conn, entry))
            return
        self._idle.append((conn, entry))
        if waiters or FREE_THREADED:
            self._queue.match()

    def connection(self, timeout: float | None = None) -> Lease:
        """Return a context manager: a connection, committed at the end, rolled back on an error.

        Arguments: `timeout`, seconds to wait, instead of the pool's.
        Raises on entering what `getconn` raises; on leaving what the driver's commit raises, and
        TransactionAborted if the block ends without an error in a transaction that has failed
        (the server would answer such a COMMIT with a silent ROLLBACK).
        """
        return self._lease(self, timeout)

    def own(self, conn: Any, owner: Any) -> None:
        """Say who answers for a lent connection.

        Arguments: `owner`, an object with `is_alive()`, which must not hold the connection. When
        the pool is exhausted, connections whose owner is not alive are taken back and closed.
        Raises ValueError if this pool has not lent `conn`; TypeError for an owner that is none.
        """
        unforked or start_anew()
        entry = self._in_use.get(id(conn), _NOT_LENT)
        if entry() is not conn:
            raise ValueError(f"pool {self.name!r} has not lent this connection")
        if not callable(getattr(owner, "is_alive", None)):  # callers in need of a slot would fail
            raise TypeError(
                f"owner is of type {type(owner).__name__}: it takes an object with is_alive()"
            )
        entry.owner = (entry.uses, owner)
        self._store.owned = True

    def _refuse(self, conn: Any, entry: Any) -> None:
        """Answer a return that is none."""
        if entry is not _NOT_LENT:  # a dropped connection had the id that this stranger has now
            self._growth.find_lost()
        if self._store.inherited.pop(id(conn), None) is not None:
            return  # lent before a fork: the parent's, and cut off from it already
        raise ValueError(
            f"pool {self.name!r} has not lent this connection: it was returned already, or "
            "belongs to another pool"
        )

    # -- open and close

    @notices_forks
    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool; connecting happens in the background. Harmless if it is open.

        Arguments: `wait`, whether to wait up to `timeout` seconds for min_size connections.
        Raises PoolClosed if it was closed; PoolTimeout (and closes) if waiting was in vain.
        """
        with self._store.lock:
            if self._store.phase == "closed":
                raise closed_error(self._store)
            self._store.phase = "open"
        if self._runner.threads:
            keeper.register(self._sweep)
            for watched in (self._use_limit, self._queue.admission):
                if watched is not None:
                    keeper.register(watched)
            if self._store.min_size:
                self._runner.wake(0.0)
        if wait:
            self.wait(timeout)

    @notices_forks
    def wait(self, timeout: float = 30.0) -> None:
        """Wait until min_size connections are open.

        Arguments: `timeout`, seconds.
        Raises PoolTimeout (and closes the pool) if that takes longer; ConnectFailed where waiting
        cannot help; PoolClosed.
        """
        fill.wait(self._waiting, self.close, timeout)

    @notices_forks
    def close(self, timeout: float = 5.0) -> None:
        """Close the pool for good: waiters get PoolClosed, idle connections close at once.

        What is lent closes when it comes back. Harmless if it is closed.
        Arguments: `timeout`, seconds to wait for connects that are under way; 0 does not wait.
        """
        self._lifecycle.close(timeout)

    @notices_forks
    def drain(self) -> None:
        """Renew all connections: idle ones close now, lent ones when they come back."""
        self._lifecycle.drain()

    @notices_forks
    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the sizes: upwards at once, downwards as connections come back.

        Arguments: as in the constructor. Raises ValueError for impossible sizes, and for a
        min_size alone that is below max_size: to psycopg_pool that is a max_size, too.
        """
        self._lifecycle.resize(*options.new_sizes(min_size, max_size, self.max_size))

    @notices_forks
    def pause(self, wait: float = 0.0) -> bool:
        """Lend nothing until `resume`, so that the server can be restarted at no caller's cost.

        Idle connections close now, lent ones when they come back; callers queue, each for no
        longer than its timeout. Harmless if it is paused.
        Arguments: `wait`, seconds to wait for what is lent and for connects under way.
        Returns whether nothing is open any more. Raises PoolClosed if the pool is not open.
        """
        return self._lifecycle.pause(wait)

    @notices_forks
    def resume(self) -> None:
        """Lend again, after `pause`: connecting begins with one at a time. Harmless otherwise."""
        self._lifecycle.resume()

    @notices_forks
    def check(self) -> None:
        """Ask the server on every idle connection now; close those that do not answer.

        Takes up to ping_timeout for each that does not. Connecting, if it was given up after
        reconnect_timeout, goes on.
        """
        self._lifecycle.check()

    @property
    def name(self) -> str:
        """As in logs and statistics."""
        return self.settings.name

    @property
    def timeout(self) -> float:
        """How many seconds a caller waits, if it does not say otherwise."""
        return self.settings.timeout

    @property
    def max_waiting(self) -> int:
        """How many callers may queue; 0 is no limit."""
        return self.settings.max_waiting

    @property
    def role(self) -> str | None:
        """What the server is to the pool."""
        return self.settings.role

    @property
    def reconnect_timeout(self) -> float:
        """After how many seconds of failed connects `reconnect_failed` is called."""
        return self.settings.reconnect_timeout

    @property
    def max_lifetime(self) -> float | None:
        """How many seconds a connection lives; None is for ever."""
        seconds = self.settings.max_lifetime
        return None if seconds == math.inf else seconds

    @property
    def max_idle(self) -> float | None:
        """How many seconds a connection above min_size stays unused; None is for ever."""
        seconds = self.settings.max_idle
        return None if seconds == math.inf else seconds

    @property
    def min_size(self) -> int:
        """How many connections are kept open; see `resize`."""
        return self._store.min_size

    @property
    def max_size(self) -> int:
        """How many connections may be open at once; see `resize`."""
        return self._store.max_size

    @property
    def closed(self) -> bool:
        """Whether the pool is not open: not yet, or not any more."""
        return self._queue.shut

    @property
    def state(self) -> str:
        """One word: "new", "ok", "down", "recovering", "paused" or "closed".

        Down: two connects failed in a row, or the server refused one while nothing was open.
        What is open goes on serving. Recovering: it connects again, few at a time at first.
        """
        unforked or start_anew()
        if self._queue.shut:
            return self._store.phase
        return "paused" if self._outage.paused else self._outage.name

    @property
    def driver(self) -> Driver:
        """The driver in use."""
        return self._driver

    @staticmethod
    def check_connection(conn: Any) -> None:
        """Ask the server on a connection; raise if it does not answer.

        `check=ConnectionPool.check_connection` is the same as `validate="ping"`. Raises TypeError
        for what is no connection of psycopg2, psycopg or sqlite3.
        """
        driver = drivers.driver_of(conn)
        if driver.transaction_status(conn) == IDLE:
            driver.ping(conn)
        else:  # which a ping would have to end
            conn.cursor().execute("SELECT 1")

    def __enter__(self) -> ConnectionPool[Conn]:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"pool {self.name!r} cannot be copied or pickled: its connections and locks belong to "
            "this process. Share the pool itself between threads; a forked child may use it as it "
            "is; in any other process make a pool of the same arguments"
        )

    def __repr__(self) -> str:
        if not hasattr(self, "_in_use"):  # in the frames of an error of the constructor
            return f"<{type(self).__name__}, not made yet>"
        return (
            f"<{type(self).__name__} {self.name!r}: {self._store.phase}, {self._driver.name}, "
            f"{len(self._in_use)} of {self.max_size} in use>"
        )

    # -- what the pool tells

    @notices_forks
    def get_stats(self) -> dict[str, Any]:
        """Return counters and gauges, named as psycopg_pool names them; see docs/stats.md."""
        return stats.snapshot(self)

    @notices_forks
    def pop_stats(self) -> dict[str, Any]:
        """Return the same, counters since the last `pop_stats`; live counters are never reset."""
        with self._store.lock:
            now = stats.snapshot(self)
            popped, self._popped = self._popped, now
        return stats.since(popped, now)

    def note_success(self) -> None:
        """Note that a round trip to the server has just been seen to complete."""
        self._store.note_success()

    def note_failure(self) -> None:
        """Note that a round trip has just failed: what was proved before counts no more.

        It does not make the pool ill; the next health check asks the server.
        """
        self._store.note_failure()

    @notices_forks
    def report(self, conn: Any, error: BaseException) -> bool:
        """Tell the pool of an error that the driver raised on a lent connection.

        If it means that the session is over (SQLSTATE class 08, a shutdown, an idle timeout, a
        closed link, or 25006 from a server that has become read-only), this connection is closed
        when it comes back, all idle ones are looked at now, and each one that is open is pinged
        before it is lent next. `connection()` reports by itself.
        Returns whether the session is over. Never raises for a connection that is not lent.
        """
        return self._sweep.report(conn, error)

    # -- forks and the end of the process

    def _start_in_child(self) -> None:
        """Leave what is open to the parent process, and start empty; called at a fork."""
        inherited = self._lifecycle.leave_to_parent()
        self._clear()
        if self._use_limit is not None:
            self._use_limit.due = 0.0  # which the parent's keeper may just have been about to write
        self._store.inherited = inherited
        if self._store.phase == "open" and self._runner.threads:
            keeper.register(self._sweep)
            if self._store.min_size:
                self._sweep.due = 0.0  # from the first use on: no thread starts in the fork itself

    def _at_exit(self) -> None:
        self._lifecycle.at_exit()

    def error(self, error: type[_E]) -> type[_E]:
        """Return that class of errors as one which is also the driver's OperationalError."""
        return for_driver(error, self._driver.OperationalError)


def _waker(runner: Runner) -> Callable[[], object]:
    return lambda: runner.wake(0.0)


def _returner(ref: weakref.ref[ConnectionPool]) -> Callable[[Any], bool]:
    """Return what gives a lent connection back, and does not keep the pool alive."""

    def give_back(conn: Any) -> bool:
        pool = ref()
        if pool is None or pool._store.entry_of(conn) is None:
            return False
        pool.putconn(conn)
        return True

    return give_back


def _caller(
    ref: weakref.ref[ConnectionPool], callback: Callable[[ConnectionPool], object] | None
) -> Callable[[], object] | None:
    """Return what calls one of the user's with the pool, and does not keep that alive."""
    if callback is None:
        return None

    def call() -> None:
        pool = ref()
        if pool is not None:
            callback(pool)

    return call
