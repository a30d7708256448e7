"""A request that gets no connection is answered with 503, unless the app has its own answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort
from flask.signals import got_request_exception
from werkzeug.exceptions import HTTPException, InternalServerError, ServiceUnavailable

from dbpool import (
    ConnectFailed,
    PoolDown,
    PoolError,
    PoolOverloaded,
    PoolTimeout,
    TooManyRequests,
)
from dbpool_flask import DBPool
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import PATIENCE, in_thread, lent, wait_for_waiters
from tests.support.waiting import wait_until
from tests.web_flask.conftest import DRIVER, MakeSite, Site, pg

IMPATIENT = {"max_size": 1, "timeout": 0.05}


@pytest.fixture
def busy(make_site: MakeSite) -> Site:
    """A site whose "/" queries, and whose pool has one connection."""
    return with_view(make_site(DBPOOL_OPTIONS=IMPATIENT))


def with_view(site: Site) -> Site:
    @site.app.get("/")
    def view() -> str:
        site.db.connection.cursor().execute("SELECT 1")
        return "ok"

    return site


def raising(site: Site, error: type[PoolError], **attributes: Any) -> Site:
    """Add "/raises", whose view fails as if the pool had refused it."""

    @site.app.get("/raises")
    def raises() -> str:
        refusal = inside.error(site.pool, error)("refused")
        refusal.__dict__.update(attributes)
        raise refusal

    return site


def test_an_exhausted_pool_is_a_503_with_retry_after(
    busy: Site, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[BaseException] = []

    @busy.app.after_request
    def cors(response: Response) -> Response:
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    def tracker(sender: Flask, exception: BaseException, **_: Any) -> None:
        told.append(exception)

    with got_request_exception.connected_to(tracker, busy.app), lent(busy.pool, 1):
        answer = busy.client().get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Access-Control-Allow-Origin"] == "*", "it is an answer like any other"
    assert [type(error).__name__ for error in told] == ["PoolTimeout"]
    (record,) = [record for record in caplog.records if record.name == "dbpool.flask"]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("GET '/' is answered with 503: pool 'default': no conn")
    assert record.exc_info is None
    assert busy.client().get("/").status_code == 200


def test_the_answer_tells_nothing_of_the_database(busy: Site) -> None:
    with lent(busy.pool, 1):
        answer = busy.client().get("/")
    text = f"{answer.headers} {answer.get_data(as_text=True)}"
    for secret in ("pool", "psycopg", "127.0.0.1", "postgres", busy.database.name, "note"):
        assert secret not in text.lower()


@pytest.mark.outage
def test_a_database_that_is_down_is_a_503(make_site: MakeSite) -> None:
    with PostgresServer() as server:
        options = {"down_wait": 0.05, "driver": DRIVER}
        site = with_view(make_site(DBPOOL_URL=server.url(), DBPOOL_OPTIONS=options))
        assert site.client().get("/").status_code == 200
        server.stop()
        answers = [site.client().get("/") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503] * 3
        assert all(1 <= int(answer.headers["Retry-After"]) <= 2 for answer in answers)
        for answer in answers:
            assert str(server.port) not in answer.get_data(as_text=True)
        server.start()
        wait_until(lambda: site.client().get("/").status_code == 200, PATIENCE, "served again")


def test_a_queue_that_is_full_is_a_503(make_site: MakeSite) -> None:
    site = with_view(make_site(DBPOOL_OPTIONS={"max_size": 1, "max_waiting": 1, "timeout": 20}))
    with lent(site.pool, 1):
        waiting = in_thread(lambda: site.client().get("/").status_code)
        wait_for_waiters(site.pool, 1)
        answer = site.client().get("/")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert waiting.result(PATIENCE) == 200


@pytest.mark.parametrize(
    ("error", "attributes", "seconds"),
    [
        (PoolTimeout, {}, "1"),
        (TooManyRequests, {}, "1"),
        (PoolOverloaded, {"retry_after": 2.0}, "2"),
        (PoolOverloaded, {"retry_after": 0.1}, "1"),
        (PoolDown, {"next_attempt": 1.2}, "2"),
        (PoolDown, {"next_attempt": 0.0}, "1"),
    ],
)
def test_retry_after_is_what_is_known_in_whole_seconds(
    busy: Site, error: type[PoolError], attributes: dict[str, Any], seconds: str
) -> None:
    answer = raising(busy, error, **attributes).client().get("/raises")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, seconds)


def test_what_does_not_pass_by_itself_stays_a_500(busy: Site) -> None:
    assert raising(busy, ConnectFailed).client().get("/raises").status_code == 500


def test_what_was_written_before_is_rolled_back(make_site: MakeSite) -> None:
    url = make_site().database.url
    databases = {"default": url, "other": {"url": url, "driver": DRIVER, **IMPATIENT}}
    site = make_site(DBPOOL_DATABASES=databases)

    @site.app.get("/")
    def view() -> str:
        site.write("lost")
        site.db.get_connection("other").cursor().execute("SELECT 1")
        return "ok"

    with lent(site.pools["other"], 1):
        assert site.client().get("/").status_code == 503
    assert site.lent() == 0
    assert site.database.notes() == []


# Handlers of the app's own

OWN: list[Any] = [PoolTimeout, PoolError, pg.OperationalError, pg.Error, Exception]
OWN += [500, InternalServerError]


@pytest.mark.parametrize("handled", OWN, ids=str)
@pytest.mark.parametrize("where", ["app", "blueprint"])
@pytest.mark.parametrize("first", ["handler", "extension"])
def test_a_handler_that_flask_would_call_is_called(
    database: Any, make_site: MakeSite, handled: Any, where: str, first: str
) -> None:
    app, db, shop = Flask("own"), DBPool(), Blueprint("shop", "shop")
    app.config["DBPOOL_URL"] = database.url
    app.config["DBPOOL_OPTIONS"] = {"driver": DRIVER, **IMPATIENT}

    @shop.get("/")
    def view() -> str:
        db.connection.cursor().execute("SELECT 1")
        return "ok"

    def own(error: Exception) -> tuple[str, int]:
        return type(error).__name__, 418

    def handle() -> None:
        (app if where == "app" else shop).register_error_handler(handled, own)

    steps: list[Callable[[], None]] = [handle, lambda: db.init_app(app)]
    for step in steps if first == "handler" else reversed(steps):
        step()
    app.register_blueprint(shop)
    with app.app_context(), lent(db.pools["default"], 1):
        answer = app.test_client().get("/")
    assert answer.status_code == 418
    is_500 = handled in (500, InternalServerError)
    assert answer.get_data(as_text=True) == ("InternalServerError" if is_500 else "PoolTimeout")
    with app.app_context():
        db.pools["default"].close()


@pytest.mark.parametrize("handled", [503, ServiceUnavailable, HTTPException], ids=str)
@pytest.mark.parametrize("has_500", [False, True])
def test_a_handler_of_503_gets_it_and_one_of_500_does_not(
    busy: Site, handled: Any, has_500: bool
) -> None:
    got: list[Any] = []

    @busy.app.errorhandler(handled)
    def own(error: Any) -> tuple[str, int]:
        got.append(error)
        return "busy", error.code

    if has_500:
        busy.app.register_error_handler(500, lambda error: ("sorry", 500))
    with lent(busy.pool, 1):
        answer = busy.client().get("/")
    assert (answer.status_code, answer.get_data(as_text=True)) == (503, "busy")
    assert answer.headers["Retry-After"] == "1", "added where the handler gives none"
    assert got[0].retry_after == 1
    assert isinstance(got[0].original_exception, PoolTimeout)


def test_a_retry_after_of_the_handlers_own_stays(busy: Site) -> None:
    busy.app.register_error_handler(503, lambda error: ("busy", 503, {"Retry-After": "30"}))
    with lent(busy.pool, 1):
        assert busy.client().get("/").headers["Retry-After"] == "30"


def test_other_errors_are_handled_as_ever(busy: Site) -> None:
    handled = []
    busy.app.register_error_handler(500, lambda error: handled.append(error) or ("sorry", 500))

    @busy.app.get("/bug")
    def bug() -> str:
        raise KeyError("bug")

    busy.app.add_url_rule("/gone", "gone", lambda: abort(503))
    assert busy.client().get("/bug").get_data(as_text=True) == "sorry"
    assert isinstance(handled[0].original_exception, KeyError)
    answer = busy.client().get("/gone")
    assert answer.status_code == 503
    assert "Retry-After" not in answer.headers


def test_a_class_that_answers_unhandled_errors_itself_is_left_alone(database: Any) -> None:
    class Own(Flask):
        def handle_exception(self, e: Exception) -> Response:
            return self.make_response(("mine", 418))

    app, db = Own("own"), DBPool()
    app.config["DBPOOL_URL"] = database.url
    app.config["DBPOOL_OPTIONS"] = {"driver": DRIVER, **IMPATIENT}
    db.init_app(app)
    app.add_url_rule("/", "view", lambda: str(db.connection))
    with app.app_context(), lent(db.pools["default"], 1):
        assert app.test_client().get("/").status_code == 418
    with app.app_context():
        db.pools["default"].close()


# Errors that no handler of exceptions ever sees


def test_a_function_after_the_request_that_gets_no_connection_is_a_503(busy: Site) -> None:
    tried = threading.Event()

    @busy.app.after_request
    def audit(response: Response) -> Response:
        if not tried.is_set():  # Flask calls it for the answer to its error, too
            tried.set()
            busy.db.connection.cursor().execute("SELECT 1")
        return response

    busy.app.add_url_rule("/still", "still", lambda: "ok")
    with lent(busy.pool, 1):
        assert busy.client().get("/still").status_code == 503


def test_an_error_handler_that_gets_no_connection_is_a_503(busy: Site) -> None:
    @busy.app.errorhandler(404)
    def suggest(error: Exception) -> str:
        busy.db.connection.cursor().execute("SELECT 1")
        return "did you mean"

    with lent(busy.pool, 1):
        assert busy.client().get("/nowhere").status_code == 503


# Development and tests


@pytest.mark.parametrize(
    ("config", "raised"),
    [
        ({"TESTING": True}, True),
        ({"DEBUG": True}, True),
        ({"PROPAGATE_EXCEPTIONS": True}, True),
        ({"TESTING": True, "PROPAGATE_EXCEPTIONS": False}, False),
    ],
)
def test_it_is_raised_where_flask_raises_what_would_be_a_500(
    make_site: MakeSite, config: dict[str, Any], raised: bool
) -> None:
    site = with_view(make_site(DBPOOL_OPTIONS=IMPATIENT, **config))
    with lent(site.pool, 1):
        if raised:
            with pytest.raises(PoolTimeout):
                site.client().get("/")
        else:
            assert site.client().get("/").status_code == 503


def test_an_async_view_is_answered_alike(busy: Site) -> None:
    pytest.importorskip("asgiref")

    @busy.app.get("/async")
    async def waits() -> str:
        busy.db.connection.cursor().execute("SELECT 1")
        return "ok"

    with lent(busy.pool, 1):
        assert busy.client().get("/async").status_code == 503


def test_what_a_refused_request_has_taken_elsewhere_is_back_before_the_answer_leaves(
    site: Site,
) -> None:
    @site.app.post("/")
    def view() -> str:
        site.write("undone")
        raise inside.error(site.pool, PoolTimeout)("of another database")

    seen: list[Any] = []

    def start_response(status: str, *args: Any) -> Any:
        seen.append((status[:3], site.lent()))  # teardown is yet to come
        return seen.append

    environ = site.app.test_request_context("/", method="POST").request.environ
    b"".join(site.app.wsgi_app(environ, start_response))
    assert seen == [("503", 0)]
    assert site.database.notes() == []
