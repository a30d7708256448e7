"""An exception that leaves the view undoes what was done, before its error handler runs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Blueprint, Response, abort, redirect, request, url_for
from flask.signals import got_request_exception, request_started
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from dbpool import TransactionAborted
from dbpool_flask import DBPool
from tests.web_flask.conftest import Database, MakeSite, Site, pg


class Refused(Exception):
    """What the views of these tests raise."""


def failing(site: Site, error: BaseException | type[BaseException] = Refused) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("half done")
        raise error


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "dbpool.flask" and record.levelno >= logging.WARNING
    ]


# -- what handlers answer


@pytest.mark.parametrize("status", [200, 302, 303, 404, 500])
@pytest.mark.parametrize("handled", [Refused, Exception, 500])
def test_a_handler_commits_nothing_of_the_view_whatever_it_answers(
    site: Site, status: int, handled: Any
) -> None:
    site.app.register_error_handler(handled, lambda error: ("handled", status))
    failing(site)
    assert site.client().post("/").status_code == status
    assert site.database.notes() == []
    assert site.lent() == 0


def test_a_handler_that_redirects_commits_what_it_has_written_itself(site: Site) -> None:
    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        assert site.database.notes() == []
        site.write("audit")
        return redirect("/elsewhere")

    failing(site)
    assert site.client().post("/").status_code in (302, 303)
    assert site.database.notes() == ["audit"]


@pytest.mark.parametrize("answer", [302, 409, 500])
def test_an_audit_row_that_a_handler_commits_is_all_that_stays(site: Site, answer: int) -> None:
    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        site.write("audit")
        site.db.commit()
        site.write("by the answer")
        return "refused", answer

    failing(site)
    assert site.client().post("/").status_code == answer
    assert site.database.notes() == ["audit", "by the answer"][: 1 + (answer < 400)]


@pytest.mark.parametrize("mode", ["request", "manual", "autocommit"])
def test_a_handler_finds_nothing_pending_in_every_mode(make_site: MakeSite, mode: str) -> None:
    site = make_site(DBPOOL_TRANSACTION=mode)

    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        site.db.commit()
        return "handled"

    @site.app.post("/")
    def view() -> Any:
        site.db.transaction().__enter__()  # never left
        site.write("half done")
        raise Refused

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == []
    assert site.lent() == 0


def test_a_handler_can_query_although_the_view_has_failed_by_a_database_error(site: Site) -> None:
    @site.app.errorhandler(pg.Error)
    def handler(error: Exception) -> Any:
        site.write("audit")
        return redirect("/elsewhere")

    @site.app.post("/")
    def view() -> Any:
        site.write("half done")
        site.fail()

    assert site.client().post("/").status_code in (302, 303)
    assert site.database.notes() == ["audit"]


def test_a_handler_gets_another_connection_where_the_views_link_is_lost(site: Site) -> None:
    @site.app.errorhandler(pg.Error)
    def handler(error: Exception) -> Any:
        site.write("audit")
        return "handled"

    @site.app.post("/")
    def view() -> Any:
        site.write("half done")
        site.db.connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["audit"]
    assert site.lent() == 0


def test_handlers_of_blueprints_are_no_different(site: Site) -> None:
    shop = Blueprint("shop", "shop")

    @shop.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        site.write("audit")
        return redirect(url_for("shop.view"))

    @shop.post("/")
    def view() -> Any:
        site.write("half done")
        raise Refused

    site.app.register_blueprint(shop, url_prefix="/one")
    site.app.register_blueprint(shop, url_prefix="/two", name="again")
    assert site.client().post("/one/").status_code in (302, 303)
    assert site.client().post("/two/").status_code in (302, 303)
    assert site.database.notes() == ["audit"] * 2


@pytest.mark.parametrize("failure", [Refused("again"), KeyError("another")])
def test_a_handler_that_raises_leaves_nothing_to_the_next_one(
    site: Site, failure: Exception
) -> None:
    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        site.write("half an audit")
        raise failure

    @site.app.errorhandler(500)
    def last(error: Exception) -> Any:
        site.write("audit")
        site.db.commit()
        return "sorry", 500

    failing(site)
    assert site.client().post("/").status_code == 500
    assert site.database.notes() == ["audit"]


def test_a_handler_that_raises_an_answer_commits_by_the_last_one(site: Site) -> None:
    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        site.write("undone with its handler")
        abort(409)

    @site.app.errorhandler(500)
    def last(error: Any) -> Any:
        site.write("audit")
        return "sorry", 200

    failing(site)
    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["audit"]


@pytest.mark.parametrize("where", ["request_started", "before_request"])
def test_an_exception_before_the_view_counts_as_one_in_it(site: Site, where: str) -> None:
    def before(*args: Any, **kwargs: Any) -> None:
        site.write("half done")
        raise Refused

    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        return "handled"

    site.app.add_url_rule("/", view_func=lambda: "ok")
    if where == "before_request":
        site.app.before_request(before)
        assert site.client().get("/").status_code == 200
    else:
        with request_started.connected_to(before, site.app):
            assert site.client().get("/").status_code == 200
    assert site.database.notes() == []


def test_a_url_that_leads_nowhere_is_no_failure_of_a_view(site: Site) -> None:
    """A single-page app answers every path with its page."""

    @site.app.before_request
    def count() -> None:
        site.write("visit")

    @site.app.errorhandler(404)
    def page(error: Exception) -> Any:
        return "the page"

    assert site.client().get("/some/where").status_code == 200
    assert site.database.notes() == ["visit"]


def test_an_answer_that_after_request_functions_have_failed_for_is_not_the_views(
    site: Site,
) -> None:
    failed: list[bool] = []

    @site.app.after_request
    def broken(response: Response) -> Response:
        if not failed:
            failed.append(True)
            raise KeyError("bug")
        return response

    @site.app.errorhandler(Exception)
    def handler(error: Exception) -> Any:
        site.write("audit")
        return redirect("/sorry")

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        return "ok"

    assert site.client().post("/").status_code in (302, 303)
    assert site.database.notes() == ["audit"]


def test_async_views_are_no_different(site: Site) -> None:
    pytest.importorskip("asgiref")

    @site.app.errorhandler(Refused)
    async def handler(error: Refused) -> Any:
        site.write("audit")
        return redirect("/elsewhere")

    @site.app.post("/")
    async def view() -> Any:
        site.write("half done")
        raise Refused

    assert site.client().post("/").status_code in (302, 303)
    assert site.database.notes() == ["audit"]


def test_all_databases_are_undone(database: Database, make_site: MakeSite) -> None:
    url = database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "logs": url})

    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        return "handled"

    @site.app.post("/")
    def view() -> Any:
        site.write("half done")
        with site.db.using("logs"):
            site.write("half done, too")
        raise Refused

    assert site.client().post("/").status_code == 200
    assert database.notes() == []


def test_what_the_view_has_committed_itself_stays(site: Site) -> None:
    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        return "handled"

    @site.app.post("/")
    def view() -> Any:
        site.write("committed")
        site.db.commit()
        site.write("half done")
        raise Refused

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["committed"]


def test_an_exception_that_is_caught_in_the_view_undoes_nothing(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        try:
            site.write("kept")
            raise Refused
        except Refused:
            return redirect("/elsewhere")

    assert site.client().post("/").status_code in (302, 303)
    assert site.database.notes() == ["kept"]


def test_a_database_error_that_a_handler_swallows_is_an_error_of_its_answer(site: Site) -> None:
    errors: list[Any] = []

    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        site.write("lost")
        with pytest.raises(pg.Error):
            site.fail()
        return "all is well"

    @site.app.errorhandler(500)
    def last(error: Any) -> Any:
        errors.append(error.original_exception)
        return "sorry", 500

    failing(site)
    assert site.client().post("/").status_code == 500
    assert isinstance(errors[0], TransactionAborted)
    assert site.database.notes() == []


def test_a_receiver_of_got_request_exception_writes_for_the_answer_alone(site: Site) -> None:
    def receive(sender: Any, exception: Exception, **kwargs: Any) -> None:
        site.write("told")

    @site.app.errorhandler(500)
    def last(error: Any) -> Any:
        return "sorry", request.args["status"]

    failing(site)
    with got_request_exception.connected_to(receive, site.app):
        assert site.client().post("/?status=500").status_code == 500
        assert site.database.notes() == []
        assert site.client().post("/?status=200").status_code == 200
    assert site.database.notes() == ["told"]
    assert site.lent() == 0


# -- HTTP exceptions


class SeeOther(HTTPException):
    code = 303
    description = "a redirect of the app's own"


@pytest.mark.parametrize(
    "way",
    [
        lambda: abort(redirect("/elsewhere")),
        lambda: abort(Response("fine", 200)),
        lambda: abort(SeeOther().get_response()),
        lambda: _raise(SeeOther()),
        lambda: _raise(RequestRedirect("/elsewhere")),
    ],
)
def test_an_http_exception_below_400_is_no_failure(site: Site, way: Any) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        way()

    assert site.client().post("/").status_code < 400
    assert site.database.notes() == ["kept"]


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "way",
    [
        lambda: abort(409),
        lambda: abort(Response("no", 409)),
        lambda: _raise(HTTPException("of no status")),
    ],
)
def test_any_other_http_exception_is_one(site: Site, way: Any) -> None:
    @site.app.errorhandler(HTTPException)
    def handler(error: Exception) -> Any:
        return "handled"

    @site.app.post("/")
    def view() -> Any:
        site.write("half done")
        way()

    site.client().post("/")
    assert site.database.notes() == []


def test_an_atomic_view_takes_a_raised_redirect_for_a_failure(site: Site) -> None:
    @site.app.post("/")
    @site.db.atomic
    def view() -> Any:
        site.write("undone")
        abort(redirect("/elsewhere"))

    assert site.client().post("/").status_code in (302, 303)
    assert site.database.notes() == []


# -- callbacks


def test_callbacks_follow_what_was_undone_before_the_handler_runs(site: Site) -> None:
    called: list[str] = []

    def hook(text: str) -> None:
        site.db.on_commit(lambda: called.append(f"{text} committed"))
        site.db.on_rollback(lambda: called.append(f"{text} rolled back"))

    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        assert called == ["view rolled back"]
        hook("handler")
        return redirect("/elsewhere")

    @site.app.post("/")
    def view() -> Any:
        hook("view")
        raise Refused

    assert site.client().post("/").status_code in (302, 303)
    assert called == ["view rolled back", "handler committed"]


def test_callbacks_of_a_handler_count_by_its_answer(site: Site) -> None:
    called: list[str] = []

    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        site.db.on_commit(lambda: called.append("committed"))
        site.db.on_rollback(lambda: called.append("rolled back"))
        return "sorry", 500

    failing(site)
    assert site.client().post("/").status_code == 500
    assert called == ["rolled back"]


def test_callbacks_of_a_raised_redirect_are_those_of_a_commit(site: Site) -> None:
    called: list[str] = []

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        site.db.on_commit(lambda: called.append("committed"))
        abort(redirect("/elsewhere"))

    site.client().post("/")
    assert called == ["committed"]


# -- blocks of handlers


@pytest.mark.parametrize(("status", "notes"), [(200, ["audit"]), (500, [])])
def test_a_block_of_a_handler_counts_by_its_answer_and_is_not_dropped_without_a_word(
    site: Site, caplog: pytest.LogCaptureFixture, status: int, notes: list[str]
) -> None:
    @site.app.errorhandler(500)
    def handler(error: Any) -> Any:
        with site.db.transaction():
            site.write("audit")
        return "sorry", status

    failing(site)
    assert site.client().post("/").status_code == status
    assert site.database.notes() == notes
    messages = said(caplog)
    assert len(messages) == (status == 500)
    assert all("500" in text and "db.commit()" in text for text in messages)


def test_a_block_of_a_handler_that_only_reads_or_is_committed_loses_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @site.app.errorhandler(500)
    def handler(error: Any) -> Any:
        if "commits" in request.args:
            with site.db.transaction():
                site.write("audit")
            site.db.commit()
        with site.db.transaction() as connection:
            connection.cursor().execute("SELECT 1")
        return "sorry", 500

    failing(site)
    assert site.client().post("/").status_code == 500
    assert site.client().post("/?commits").status_code == 500
    assert site.database.notes() == ["audit"]
    assert said(caplog) == []


# -- streams


def test_a_kept_stream_of_a_view_that_failed_keeps_nothing_of_the_handlers_stream(
    site: Site,
) -> None:
    kept: list[Any] = []

    @site.app.errorhandler(Refused)
    def handler(error: Refused) -> Any:
        site.write("audit")
        return Response(iter(["of the ", "handler"]))

    @site.app.post("/")
    def view() -> Any:
        kept.append(site.db.keep_open(iter(["row"])))
        site.write("half done")
        raise Refused

    assert site.client().post("/").text == "of the handler"
    assert site.lent() == 0
    assert site.database.notes() == ["audit"]


# -- teardown, and classes of an app's own


def test_an_error_that_is_raised_into_a_test_finds_nothing_to_undo_in_teardown(
    make_site: MakeSite,
) -> None:
    site = make_site(TESTING=True)
    seen: list[Any] = []

    @site.app.teardown_request
    def look(error: BaseException | None) -> None:
        seen.append((type(error), site.database.notes()))

    failing(site)
    with pytest.raises(Refused):
        site.client().post("/")
    assert seen == [(Refused, [])]
    assert site.lent() == 0
    assert site.database.notes() == []


@pytest.mark.parametrize("first", ["extension", "other"])
def test_an_extension_that_answers_errors_itself_commits_no_half_done_work(
    database: Database, make_site: MakeSite, first: str
) -> None:
    """As Flask-RESTful and Flask-RESTX do, whichever of both is set up first."""
    db = DBPool()
    site = make_site(db)
    app = type(site.app)("other")
    app.config.update(site.app.config)

    def other() -> None:
        inner = app.handle_user_exception

        def answers(*args: Any) -> Any:
            if isinstance(args[-1], Refused):
                db.connection.cursor().execute("INSERT INTO note (text) VALUES ('audit')")
                return "handled"
            return inner(*args)

        app.handle_user_exception = answers  # type: ignore[method-assign]

    steps = [lambda: db.init_app(app), other]
    for step in steps if first == "extension" else reversed(steps):
        step()

    @app.post("/<int:known>")
    def view(known: int) -> Any:
        db.connection.cursor().execute("INSERT INTO note (text) VALUES ('half done')")
        raise Refused if known else KeyError

    assert app.test_client().post("/1").status_code == 200
    assert app.test_client().post("/0").status_code == 500
    assert database.notes() == ["audit"]
    with app.app_context():
        db.pools["default"].close()
