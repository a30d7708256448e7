"""What the extension keeps for one app: its pools, and its part in the life of a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import flask
from flask.signals import appcontext_tearing_down, request_tearing_down
from werkzeug.exceptions import InternalServerError

from ._context import app_context, request_context
from ._modes import Mode, mode_of
from ._scope import Scope

if TYPE_CHECKING:
    from flask import Flask, Request, Response
    from flask.ctx import AppContext, RequestContext

    from dbpool import ConnectionPool
    from dbpool._session import Reports

    from ._isolation import Isolation

    CommitVeto = Callable[[Request, Response], object]

__all__ = ["AppState"]

logger = logging.getLogger("dbpool.flask")


class AppState:
    """The pools of one app, and what happens to its connections at the end of each context.

    Kept in `app.extensions`; it must not hold the app, nor may the pools.
    """

    def __init__(
        self,
        pools: dict[str, ConnectionPool],
        reports: Mapping[str, Reports],
        replica: str | None,
        slot: str,
        mode: Mode,
        commit_veto: CommitVeto | None,
    ) -> None:
        self._pools = MappingProxyType(pools)
        self.reports = reports
        self.replica = replica
        self._slot = slot  # where a context has its scope
        self._mode = mode
        self._veto = commit_veto
        self.opened: Mapping[str, ConnectionPool] = {}  # what `pools` returns, from its first use
        self._watches_teardown = False
        self.isolation: Isolation | None = None

    def pools(self) -> Mapping[str, ConnectionPool]:
        """Return the pools by name, open (which does not mean connected)."""
        if not self.opened:
            for pool in self._pools.values():
                pool.open()
            self.opened = self._pools
        return self.opened

    def scope(self, context: AppContext | RequestContext) -> Scope:
        """Return the scope of that context, which is made on first use."""
        scope: Scope | None = getattr(context, self._slot, None)
        if scope is None:
            # Two threads of one context may come at once: the first one's is everybody's.
            scope = vars(context).setdefault(self._slot, Scope(context, self, self._mode))
        return scope

    def connect(self, app: Flask) -> None:
        """Take part in the life of the app's contexts."""
        slot, default = self._slot, self._mode

        dispatch, handle = app.full_dispatch_request, app.handle_exception

        # Around Flask's own methods, which return when all `after_request` functions, the session
        # and the receivers of request_finished are through. To be a receiver ourselves, of that
        # and of request_started, costs several times as much, at a place among the others that
        # nobody knows. Newer versions of Flask pass a context first.
        def full_dispatch_request(*args: Any) -> Response:
            context: Any = request_context(None)
            rule = context.request.url_rule
            view = None if rule is None else app.view_functions.get(rule.endpoint)
            mode = default if view is None else mode_of(view, default)
            scope: Scope | None = getattr(context, slot, None)
            if scope is None:  # as `scope` makes it, but nobody else knows this context yet
                scope = Scope(context, self, mode)
                setattr(context, slot, scope)
            scope.begin(mode)
            response = dispatch(*args)
            self._finish(scope, response)
            return response

        def handle_exception(*args: Any) -> Response:
            response = handle(*args)
            scope: Scope | None = getattr(request_context(None), slot, None)
            if scope is not None:
                try:
                    self._finish(scope, response)
                except Exception as error:  # the handler's answer is not true, and it had its turn
                    app.logger.exception("what an error handler has answered was not committed")
                    response = app.make_response(InternalServerError(original_exception=error))
            return response

        # Plain functions, since Flask takes longer to unwrap a bound method than ours to do what
        # they do; and each leaves at once where there is nothing to do.
        def tear_down_request(error: BaseException | None) -> None:
            scope: Scope | None = getattr(request_context(None), slot, None)
            if scope is not None and scope.has_leftovers():
                self._clean(scope, error)

        def tear_down_app_context(error: BaseException | None) -> None:
            scope: Scope | None = getattr(app_context(None), slot, None)
            if scope is not None and scope.has_leftovers():
                self._clean(scope, error)

        app.full_dispatch_request = full_dispatch_request  # type: ignore[method-assign]
        app.handle_exception = handle_exception  # type: ignore[method-assign, assignment]
        app.teardown_request(tear_down_request)
        app.teardown_appcontext(tear_down_app_context)

    def watch_teardown(self) -> None:
        """Look again when all teardown functions have run.

        Those registered before ours run after it, and may take a connection once more. Only apps
        that do so pay for it, from the first time on.
        """
        if not self._watches_teardown:
            self._watches_teardown = True
            app = flask.current_app._get_current_object()  # type: ignore[attr-defined]
            request_tearing_down.connect(self._tear_down_request_again, app)
            appcontext_tearing_down.connect(self._tear_down_app_context_again, app)

    # -- the end of a request

    def _finish(self, scope: Scope, response: Response) -> None:
        """Commit or roll back: the last moment at which the client can be told of a failure.

        Comes a second time, with the answer of the app's error handlers, if this raises.
        """
        if scope.ended:
            if scope.committed and response.status_code >= 500:
                logger.error(
                    "what was put around Flask's full_dispatch_request failed when this request "
                    "was committed already: it is answered with %d, but what it wrote is kept",
                    response.status_code,
                )
            return
        try:
            commit = response.status_code < 400 and not (
                self._veto and scope.used and self._veto(flask.request, response)
            )
            streams = scope.keeps_open and commit and _is_stream(response)
            if not (streams and scope.start_stream()):
                scope.finish(commit)
        except BaseException:
            # The answer is dropped. If it is a stream that has its context pushed (Flask up to
            # 3.1.1), the next request on this thread would find that one.
            try:
                response.close()
            except Exception:
                logger.exception("closing an answer that could not be committed failed")
            raise

    # -- whatever is left; these may run twice for one context and never raise

    def _tear_down_request_again(self, sender: Flask, **kwargs: Any) -> None:
        self._clean(getattr(request_context(None), self._slot, None), kwargs.get("exc"))

    def _tear_down_app_context_again(self, sender: Flask, **kwargs: Any) -> None:
        self._clean(getattr(app_context(None), self._slot, None), kwargs.get("exc"))

    def _clean(self, scope: Scope | None, error: BaseException | None) -> None:
        if scope is None:
            return
        # GeneratorExit reaches a stream at its yield, never inside a call of the driver.
        torn = error is not None and not isinstance(error, (Exception, GeneratorExit))
        if scope.used and not (torn or scope.ended):
            _tell_of_loss(scope, error)
        scope.clean(torn)


def _is_stream(response: Response) -> bool:
    """Return whether a server is going to iterate over the body; by the rule of Werkzeug."""
    status = response.status_code
    bodiless = flask.request.method == "HEAD" or status < 200 or status in (204, 304)
    return response.is_streamed and not bodiless


def _tell_of_loss(scope: Scope, error: BaseException | None) -> None:
    """Log what is undone without anybody having been told of an error."""
    if error is None and not scope.dispatched and (names := scope.losing()):
        logger.warning(
            "what was written on %s was not committed before its app context, or copied "
            "request context, ended: it is rolled back. Outside of a request use `with "
            "db.transaction():` or db.commit()",
            ", ".join(map(repr, names)),
        )
