"""The extension: `db = DBPool()`, `db.init_app(app)`, `db.connection`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from dbpool.adapters import close_with, forget_locals
from dbpool.health import HealthCheck
from dbpool.health.wsgi import HealthEndpoint

from . import _config
from ._app import AppState
from ._commands import commands
from ._context import current_context, slot
from ._isolation import Isolation
from ._marks import Mark
from ._modes import checked
from ._routing import PRIMARY, Using, database
from ._streaming import KeptOpen
from ._transaction import Transaction, atomic

if TYPE_CHECKING:
    from flask import Flask
    from flask.ctx import AppContext, RequestContext

    from dbpool import ConnectionPool

    from ._app import CommitVeto
    from ._fence import FencedConnection
    from ._scope import Scope

__all__ = ["DBPool"]

V = TypeVar("V", bound=Callable[..., Any])


class DBPool:
    """Connections from a pool, one per request, committed before the answer leaves.

    `DBPool(app)`, or `db = DBPool()` and `db.init_app(app)` in an app factory; several apps may
    share one object. Nothing connects before `db.connection` is read.

    At the end of a request, after all `after_request` functions and before its answer starts,
    everything is committed if the answer's status is below 400, rolled back otherwise. If that
    commit fails, the client gets the app's own error answer. Elsewhere (commands, threads,
    scripts) nothing is committed unless you ask: `with db.transaction():` or `db.commit()`.

    Arguments: `app`, as for `init_app`; `commit_veto`, called with request and response before a
    commit, which becomes a rollback if it returns true.
    """

    def __init__(self, app: Flask | None = None, *, commit_veto: CommitVeto | None = None) -> None:
        self._commit_veto = commit_veto
        self._apps: WeakKeyDictionary[Flask, AppState] = WeakKeyDictionary()
        self._slot = slot()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set the app up by its configuration, and answer /healthz/db; does not connect.

        A request that gets no connection (PoolTimeout, PoolDown, PoolOverloaded, TooManyRequests)
        is answered with 503 and Retry-After, unless the app has a handler of its own for that.
        Raises RuntimeError if the app has a DBPool already; ValueError, TypeError or
        ModuleNotFoundError for a configuration that cannot work, naming the key.
        """
        if "dbpool" in app.extensions:
            raise RuntimeError(
                f"app {app.name!r} has a DBPool already: call init_app once per app. For a second "
                "database use DBPOOL_DATABASES"
            )
        try:
            self._set_up(app)
        except Exception as error:  # a page of local variables would show URLs and tokens
            forget_locals(error)
            raise

    def _set_up(self, app: Flask) -> None:
        pools, watches = _config.make_pools(app.config)
        replica, mode = _config.replica(app.config, pools), _config.mode(app.config)
        state = AppState(pools, watches, replica, self._slot, mode, self._commit_veto)
        health = HealthCheck.configured(state.pools, app.config)
        state.connect(app)
        app.cli.add_command(commands(state))
        close_with(app, app.name, pools)
        if health.prefix is not None:
            app.wsgi_app = HealthEndpoint(app.wsgi_app, health)  # type: ignore[method-assign]
        self._apps[app] = app.extensions["dbpool"] = state

    # -- what views use

    @property
    def connection(self) -> FencedConnection:
        """The request's (or app context's) connection to the default database.

        That to another database inside `db.using(name)`, and in views that are decorated so.
        Taken from the pool on first use, the same one until the end. Raises what the pool raises
        when it has none to give: PoolTimeout and its kin, each also the driver's
        OperationalError; RuntimeError outside any context.
        """
        scope: Scope = getattr(current_context(), self._slot, None) or self._scope()
        return scope.connection(database(scope) if scope.routed else PRIMARY)

    def get_connection(self, name: str | None = None) -> FencedConnection:
        """Return the connection to the database of that name; without one it is `connection`.

        Raises LookupError, naming the nearest one, if no such database is configured.
        """
        scope = self._scope()
        return scope.connection(database(scope) if name is None else name)

    def using(self, name: str) -> Using:
        """Have `db.connection` and `db.transaction()` mean the database of that name.

        `with db.using("logs"):` for a block, `@db.using("logs")` for a view (until its request is
        over) or another function. The replica that DBPOOL_REPLICA names is used only as long as
        nothing was written on the default database in the same request; from then on it is that
        one. Raises LookupError when entered if no such database is configured.
        """
        return Using(self._scope, name)

    def transaction(self, name: str | None = None) -> Transaction:
        """Return a context manager: all or nothing, for the length of a `with` block.

        Blocks may be nested. In a request each is a savepoint in the request's transaction;
        elsewhere the outermost one commits when it ends. Entering returns the connection.
        """
        scope = self._scope()
        return Transaction(scope, database(scope) if name is None else name)

    def commit(self, name: str | None = None) -> None:
        """Commit now what was done on the database of that name, or on all that were used.

        What is committed stays, whatever becomes of the request. Raises TransactionAborted if
        that transaction has failed, CommitUnknown if its link is lost during the commit.
        """
        self._scope().commit(name)

    def rollback(self, name: str | None = None) -> None:
        """Roll back now what was done on the database of that name, or on all that were used."""
        self._scope().rollback(name)

    def doom(self) -> None:
        """Have the end of this request roll back, whatever its status. Cannot be taken back."""
        self._scope().doom()

    def on_commit(self, call: Callable[[], object], name: str | None = None) -> None:
        """Call a function after what is open on that database is committed, and only then.

        In a request that is after its end, just before the answer starts; the connection is back
        by then. Errors of the function are logged. What undoes the block that this is called in
        drops the function. When the request has ended and no block is open, it is called at once.
        """
        self._after(name, True, call)

    def on_rollback(self, call: Callable[[], object], name: str | None = None) -> None:
        """Call a function after what is open on that database is rolled back, and only then.

        Where nothing is open (each statement commits by itself, or the request has ended) it is
        never called, but in a block.
        """
        self._after(name, False, call)

    def _after(self, name: str | None, commit: bool, call: Callable[[], object]) -> None:
        scope = self._scope()
        if name is None:
            name = database(scope)
            # Nothing is committed on a replica: what is meant is the request's work.
            name = PRIMARY if name == scope.replica else name
        scope.after(name, commit, call)

    def keep_open(self, body: Iterable[Any], seconds: float = 300.0) -> KeptOpen:
        """Return a body for a streamed answer that keeps the request's transaction until its end.

        `Response(db.keep_open(rows()))` commits at the end, before the last chunk is sent, and
        rolls back if the body breaks off. It occupies a connection for as long as the slowest
        client takes to read, but not longer than `seconds`. Implies `stream_with_context`.
        """
        return KeptOpen(self._scope(), body, seconds)

    # -- decorators of views

    def atomic(self, view: V) -> V:
        """Roll back on any exception that leaves the view, whatever its error handler answers.

        Commits at the end of the request in apps whose DBPOOL_TRANSACTION is another one, too. On
        a function that is not the view of a request: `with db.transaction()` around it.
        """
        return atomic(view, self._scope, self.transaction)

    def manual(self, view: V) -> V:
        """Commit nothing at the end of this view's request: `db.commit()` or blocks do."""
        return self._checked("transaction", "manual", view)

    def autocommit(self, view: V) -> V:
        """Have each statement of this view commit by itself; `with db.transaction()` groups."""
        return self._checked("transaction", "autocommit", view)

    def read_only(self, view: V) -> V:
        """Have the server refuse what this view tries to write.

        Where DBPOOL_REPLICA names a replica, `db.connection` is that one's in this view.
        """
        return self._checked("read_only", "read_only", view)

    def _checked(self, kind: str, word: str, view: V) -> V:
        return checked(view, Mark(kind, word, word, view), self._scope)

    @contextmanager
    def test_isolation(self, app: Flask | None = None) -> Iterator[None]:
        """For tests: undo at the end of the block whatever the app commits in it.

        Arguments: `app`, where no context says which one is meant. What the app does through
        `db.pools` is not undone. Threads of a live server take turns.
        """
        state = self._app_state(app or self._context().app)
        if state.isolation is not None:
            raise RuntimeError("db.test_isolation() is active for this app already")
        pools = {name: pool for name, pool in state.pools().items() if name != state.replica}
        try:
            with Isolation(pools, state.watches) as state.isolation:
                try:
                    yield
                finally:
                    state.isolation = None  # before its connections go back
        finally:
            state.isolation = None  # whatever has struck before

    @property
    def pools(self) -> Mapping[str, ConnectionPool]:
        """The app's pools by name, open."""
        return self._app_state(self._context().app).pools()

    # --

    def _scope(self) -> Scope:
        scope: Scope | None = getattr(current_context(), self._slot, None)
        if scope is None:
            context = self._context()
            scope = self._app_state(context.app).scope(context)
        return scope

    @staticmethod
    def _context() -> AppContext | RequestContext:
        context = current_context()
        if context is None:
            raise RuntimeError(
                "there is no request and no app context here, so it is not known which app is "
                "meant: do this in a view or command, or inside `with app.app_context():`"
            )
        return context

    def _app_state(self, app: Flask) -> AppState:
        try:
            return self._apps[app]
        except KeyError:
            raise RuntimeError(
                f"this DBPool does not know the app {app.name!r}: call db.init_app(app) in its "
                "set-up"
            ) from None
