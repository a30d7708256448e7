"""The 503 comes through tracers around Flask's class, and past extensions that answer errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import wrapt
from flask import Flask, Response, abort, got_request_exception, jsonify
from werkzeug.exceptions import HTTPException

from dbpool import PoolDown, PoolTimeout
from dbpool_flask import DBPool
from tests.support import inside
from tests.support.callers import lent
from tests.web_flask.conftest import DRIVER, Database, MakeSite, Site, pg

IMPATIENT = {"max_size": 1, "timeout": 0.05}


@pytest.fixture
def busy(make_site: MakeSite) -> Site:
    return make_site(DBPOOL_OPTIONS=IMPATIENT)


def queries(site: Site) -> str:
    site.db.connection.cursor().execute("SELECT 1")
    return "ok"


class Api:
    """Answers errors of its own views as Flask-RESTful and Flask-RESTX do, in front of Flask."""

    def __init__(self, app: Flask) -> None:
        self.handlers: dict[type[Exception], Callable[[Any], Any]] = {}
        self.by_name: dict[str, int] = {}
        app.handle_exception = partial(  # type: ignore[method-assign]
            self.route, app.handle_exception
        )
        app.handle_user_exception = partial(  # type: ignore[method-assign]
            self.route, app.handle_user_exception
        )

    def route(self, original: Callable[..., Any], *args: Any) -> Any:
        from flask import request

        return self.handle(args[-1]) if request.path.startswith("/api") else original(*args)

    def handle(self, error: Exception) -> Response:
        for kind, handler in self.handlers.items():
            if isinstance(error, kind):
                return self.answer(*handler(error))
        code = 500
        if isinstance(error, HTTPException):
            code = error.code or 500
        return self.answer({"api": code}, self.by_name.get(type(error).__name__, code))

    def answer(self, data: Any, code: int) -> Response:
        response = jsonify(data)
        response.status_code = code
        return response


def with_api(site: Site) -> Api:
    api = Api(site.app)
    site.app.add_url_rule("/api", "api", lambda: queries(site))
    site.app.add_url_rule("/", "plain", lambda: queries(site))
    return api


def test_an_extension_that_answers_errors_itself_answers_503(
    busy: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with_api(busy)
    with lent(busy.pool, 1):
        answer = busy.client().get("/api")
    assert (answer.status_code, answer.json) == (503, {"api": 503})
    assert answer.headers["Retry-After"] == "1"
    (record,) = [record for record in caplog.records if record.name == "dbpool.flask"]
    assert record.getMessage().startswith("GET '/api' is answered with 503: pool 'default': no c")
    assert busy.client().get("/api").text == "ok"


def test_so_does_one_that_was_there_first(database: Database) -> None:
    app, db = Flask("first"), DBPool()
    app.config["DBPOOL_URL"] = database.url
    app.config["DBPOOL_OPTIONS"] = {"driver": DRIVER, **IMPATIENT}
    Api(app)
    db.init_app(app)
    app.add_url_rule("/api", "api", lambda: str(db.connection))
    app.add_url_rule("/", "plain", lambda: str(db.connection))
    app.register_error_handler(PoolTimeout, lambda error: (type(error).__name__, 418))
    app.register_error_handler(503, lambda error: ("not asked", 503))
    with app.app_context(), lent(db.pools["default"], 1):
        answer = app.test_client().get("/api")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        answer = app.test_client().get("/")
        assert (answer.status_code, answer.text) == (418, "PoolTimeout")
    with app.app_context():
        db.pools["default"].close()


@pytest.mark.parametrize("kind", [PoolTimeout, pg.OperationalError, pg.Error, Exception])
def test_a_handler_of_the_extensions_own_for_the_errors_class_is_called(
    busy: Site, kind: Any
) -> None:
    api = with_api(busy)
    got: list[Any] = []
    api.handlers[kind] = lambda error: got.append(error) or ({"own": error.retry_after}, 429)
    with lent(busy.pool, 1):
        answer = busy.client().get("/api")
    assert (answer.status_code, answer.json) == (429, {"own": 1})
    assert "Retry-After" not in answer.headers
    (error,) = got
    assert isinstance(error, PoolTimeout)
    assert error.args == error.original_exception.args
    assert error.__traceback__ is not None
    assert type(error.original_exception) is not type(error)


def test_what_the_pool_says_of_itself_is_at_hand_there(busy: Site) -> None:
    api = with_api(busy)

    def down() -> str:
        refusal = inside.error(busy.pool, PoolDown)("refused")
        refusal.next_attempt = 1.2
        raise refusal

    api.handlers[PoolDown] = lambda error: ({"next": error.next_attempt}, 503)
    busy.app.add_url_rule("/api/down", "down", down)
    answer = busy.client().get("/api/down")
    assert (answer.json, answer.headers["Retry-After"]) == ({"next": 1.2}, "2")


def test_a_handler_of_the_apps_own_for_the_errors_class_is_left_its_503(
    busy: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with_api(busy)
    busy.app.register_error_handler(PoolTimeout, lambda error: ("mine", 503))
    with lent(busy.pool, 1):
        answer = busy.client().get("/")
    assert (answer.status_code, answer.text) == (503, "mine")
    assert "Retry-After" not in answer.headers
    assert caplog.records == []


def test_an_answer_of_the_extensions_own_by_the_errors_name_stands(busy: Site) -> None:
    with_api(busy).by_name["PoolTimeout"] = 418
    with lent(busy.pool, 1):
        assert busy.client().get("/api").status_code == 418


@pytest.mark.parametrize("handled", [PoolTimeout, pg.Error, Exception, 500, 503, None], ids=str)
def test_views_that_are_not_the_extensions_are_answered_as_without_it(
    busy: Site, handled: Any
) -> None:
    with_api(busy)
    told: list[Any] = []

    def tracker(sender: Flask, exception: BaseException, **_: Any) -> None:
        told.append(exception)

    if handled is not None:
        busy.app.register_error_handler(handled, lambda error: (type(error).__name__, 418))
    with got_request_exception.connected_to(tracker, busy.app), lent(busy.pool, 1):
        answer = busy.client().get("/")
    names = {500: "InternalServerError", 503: "DatabaseUnavailable"}
    if handled is None:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    else:
        assert (answer.status_code, answer.text) == (418, names.get(handled, "PoolTimeout"))
    plain = handled in (500, 503, None)
    assert [isinstance(error, HTTPException) for error in told] == [False] * plain


def test_what_the_extension_never_sees_as_an_error_of_a_view_is_a_503_too(busy: Site) -> None:
    with_api(busy)
    tried: list[bool] = []

    @busy.app.after_request
    def audit(response: Response) -> Response:
        if not tried:
            tried.append(True)
            queries(busy)
        return response

    busy.app.add_url_rule("/api/still", "still", lambda: "ok")
    with lent(busy.pool, 1):
        answer = busy.client().get("/api/still")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_other_errors_reach_the_extension_as_they_are(busy: Site) -> None:
    api = with_api(busy)
    got: list[Any] = []
    api.handlers[Exception] = lambda error: got.append(type(error)) or ({}, 400)
    busy.app.add_url_rule("/api/bug", "bug", lambda: [][1])
    busy.app.add_url_rule("/api/gone", "gone", lambda: abort(503))
    assert busy.client().get("/api/bug").status_code == 400
    assert busy.client().get("/api/gone").status_code == 400
    assert [kind.__name__ for kind in got] == ["IndexError", "ServiceUnavailable"]


def test_where_errors_propagate_the_extension_gets_the_error_itself(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_OPTIONS=IMPATIENT, TESTING=True)
    api = with_api(site)
    got: list[Any] = []
    api.handlers[Exception] = lambda error: got.append(error) or ({}, 500)
    with lent(site.pool, 1):
        site.client().get("/api")
        with pytest.raises(PoolTimeout):
            site.client().get("/")
    assert not isinstance(got[0], HTTPException)


# -- tracers


def passes_on(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


METHODS = ("handle_exception", "handle_user_exception", "handle_http_exception", "wsgi_app")


def test_methods_of_flasks_class_that_a_tracer_wraps_are_flasks_still(
    monkeypatch: pytest.MonkeyPatch, make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (*METHODS, "full_dispatch_request"):
        monkeypatch.setattr(Flask, name, wrapt.FunctionWrapper(vars(Flask)[name], passes_on))
    site = make_site(DBPOOL_OPTIONS=IMPATIENT)
    with_api(site)
    with lent(site.pool, 1):
        for path in ("/", "/api"):
            answer = site.client().get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("wraps", [True, False])
def test_a_subclass_whose_method_wraps_flasks_is_flask_and_another_method_is_its_own(
    database: Database, wraps: bool
) -> None:
    class Traced(Flask):
        if wraps:
            handle_exception = wrapt.FunctionWrapper(vars(Flask)["handle_exception"], passes_on)
        else:

            def handle_exception(self, e: Exception) -> Response:
                return self.make_response(("mine", 418))

    app, db = Traced("traced"), DBPool()
    app.config["DBPOOL_URL"] = database.url
    app.config["DBPOOL_OPTIONS"] = {"driver": DRIVER, **IMPATIENT}
    db.init_app(app)
    app.add_url_rule("/", "view", lambda: str(db.connection))
    with app.app_context(), lent(db.pools["default"], 1):
        assert app.test_client().get("/").status_code == (503 if wraps else 418)
    with app.app_context():
        db.pools["default"].close()
