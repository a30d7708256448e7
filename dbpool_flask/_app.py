"""What the extension keeps for one app: its pools, and its part in the life of a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import flask
from werkzeug.exceptions import HTTPException, InternalServerError

from ._context import app_context, begun_request, request_context
from ._modes import Mode, remembered_mode
from ._scope import Scope
from ._told import losing_at_end, tell_of_loss
from ._unavailable import answer_raised, answer_unavailable, handling_errors

if TYPE_CHECKING:
    from flask import Flask, Request, Response
    from flask.ctx import AppContext, RequestContext

    from dbpool import ConnectionPool
    from dbpool.adapters import SessionWatch

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
        watches: Mapping[str, SessionWatch],
        replica: str | None,
        slot: str,
        mode: Mode,
        commit_veto: CommitVeto | None,
    ) -> None:
        self._pools = MappingProxyType(pools)
        self.watches = watches
        self.replica = replica
        self._slot = slot  # where a context has its scope
        self._mode = mode
        self._veto = commit_veto
        self.opened: Mapping[str, ConnectionPool] = {}  # what `pools` returns, from its first use
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

        dispatch = app.full_dispatch_request
        # By view, or view and HTTP method. Not in `self`: views know the app, which that must not.
        modes: dict[Any, Mode] = {None: default}

        # Around Flask's own methods, which return when all `after_request` functions, the session
        # and the receivers of request_finished are through. To be a receiver ourselves, of that
        # and of request_started, costs several times as much, at a place among the others that
        # nobody knows. Newer versions of Flask pass a context first.
        def full_dispatch_request(*args: Any) -> Response:
            context = begun_request()
            rule = context.request.url_rule
            view = None if rule is None else app.view_functions.get(rule.endpoint)
            try:
                mode = modes.get(view)
            except TypeError:  # it has no hash
                mode = None
            if mode is None:  # not yet known, or a class of views
                mode = remembered_mode(modes, view, context.request.method, default)
            scope: Scope | None = getattr(context, slot, None)
            if scope is None:  # as `scope` makes it, but nobody else knows this context yet
                scope = Scope(context, self, mode)
                setattr(context, slot, scope)
            # No variable for the dictionary, which holds the configuration: error pages show it.
            if app.__dict__.get("handle_user_exception") is not guard:
                stand_before_handlers()
            scope.begin(mode)
            try:
                response = dispatch(*args)
            except Exception:  # also of an error handler, and whatever else comes after the view
                scope.fail(None)
                raise
            self._finish(scope, response)
            return response

        guard: Callable[..., Any] | None = None

        # Before whatever answers errors: extensions that do so put themselves in front of Flask's
        # methods, some of them (Flask-RESTful, Flask-RESTX) after us.
        def stand_before_handlers() -> None:
            nonlocal guard
            answer, handle = app.handle_user_exception, handling_errors(app)

            def handle_user_exception(*args: Any) -> Any:
                error = args[-1]
                scope: Scope | None = getattr(request_context(None), slot, None)
                if scope is not None and (_is_failure(error) or scope.mode.undoes(error)):
                    scope.fail(error)
                return answer_raised(answer, args)

            def handle_exception(*args: Any) -> Response:
                response = handle(*args)
                scope: Scope | None = getattr(request_context(None), slot, None)
                return response if scope is None else self._finish_handled(app, scope, response)

            app.handle_exception = handle_exception  # type: ignore[method-assign, assignment]
            guard = handle_user_exception
            app.handle_user_exception = guard  # type: ignore[method-assign, assignment]

        app.full_dispatch_request = full_dispatch_request  # type: ignore[method-assign]
        answer_unavailable(app)
        stand_before_handlers()
        # Around these as well: whatever teardown functions and receivers of signals have taken is
        # there when all of them are through, whoever of them fails.
        app.do_teardown_request = self._around(  # type: ignore[method-assign]
            app.do_teardown_request, request_context
        )
        app.do_teardown_appcontext = self._around(  # type: ignore[method-assign]
            app.do_teardown_appcontext, app_context
        )

    def _around(self, tear_down: Callable[..., None], context: Callable[..., Any]) -> Any:
        """Return Flask's method, giving back at its end what is left in the context."""
        slot = self._slot

        def torn_down(*args: Any, **kwargs: Any) -> None:
            error = args[-1] if args else kwargs.get("exc")
            try:
                tear_down(*args, **kwargs)
            except BaseException as failure:
                error = failure
                raise
            finally:
                scope: Scope | None = getattr(context(None), slot, None)
                if scope is not None and scope.has_leftovers():
                    self._clean(scope, error)

        return torn_down

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
                losing = losing_at_end(scope, commit)
                scope.finish(commit)
                if losing:
                    tell_of_loss(losing, response, scope.failed)
        except BaseException:
            # The answer is dropped. If it is a stream that has its context pushed (Flask up to
            # 3.1.1), the next request on this thread would find that one.
            try:
                response.close()
            except Exception:
                logger.exception("closing an answer that could not be committed failed")
            raise

    def _finish_handled(self, app: Flask, scope: Scope, response: Response) -> Response:
        """End a request with the answer to an error; return that, or what takes its place."""
        try:
            self._finish(scope, response)
        except Exception as error:  # the handler's answer is not true, and it had its turn
            app.logger.exception("what an error handler has answered was not committed")
            response = app.make_response(InternalServerError(original_exception=error))
        return response

    def _clean(self, scope: Scope, error: BaseException | None) -> None:
        """Roll back whatever is left; may run twice for one context and never raises."""
        # GeneratorExit reaches a stream at its yield, never inside a call of the driver.
        torn = error is not None and not isinstance(error, (Exception, GeneratorExit))
        if error is None and scope.used and not scope.dispatched and (names := scope.losing()):
            tell_of_loss(names, None)
        scope.clean(torn)


def _is_failure(error: BaseException) -> bool:
    """Return whether an exception that leaves a view says that its work is not done.

    No failures are: a redirect, or another answer below 400, that is raised; and a URL that leads
    to no view.
    """
    if not isinstance(error, HTTPException):
        return True
    if error is flask.request.routing_exception:
        return False
    status = error.code if error.response is None else error.response.status_code
    return status is None or status >= 400


def _is_stream(response: Response) -> bool:
    """Return whether a server is going to iterate over the body; by the rule of Werkzeug."""
    status = response.status_code
    bodiless = flask.request.method == "HEAD" or status < 200 or status in (204, 304)
    return response.is_streamed and not bodiless
