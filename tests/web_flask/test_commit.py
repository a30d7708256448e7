"""The end of a request decides, before its answer leaves: points 2 to 4 of the promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Response, abort, redirect, session, stream_with_context

from dbpool import CommitUnknown, TransactionAborted
from tests.web_flask.conftest import MakeSite, Site, pg


@pytest.mark.parametrize("status", [200, 201, 204, 302, 303, 399])
def test_a_status_below_400_commits(site: Site, status: int) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return "", status

    assert site.client().post("/").status_code == status
    assert site.database.notes() == ["kept"]
    assert site.lent() == 0


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 503])
def test_a_status_from_400_on_rolls_back(site: Site, status: int) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        return "", status

    assert site.client().post("/").status_code == status
    assert site.database.notes() == []
    assert site.lent() == 0


def test_abort_rolls_back(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        abort(409)

    assert site.client().post("/").status_code == 409
    assert site.database.notes() == []


def test_an_unhandled_error_rolls_back(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        raise KeyError("bug")

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []


@pytest.mark.parametrize(("status", "notes"), [(200, ["by the handler"]), (409, [])])
def test_what_a_handler_writes_is_judged_by_its_answer_and_the_view_is_undone(
    site: Site, status: int, notes: list[str]
) -> None:
    @site.app.errorhandler(KeyError)
    def handler(error: KeyError) -> Any:
        site.write("by the handler")
        return "handled", status

    @site.app.post("/")
    def view() -> Any:
        site.write("by the view")
        raise KeyError("bug")

    assert site.client().post("/").status_code == status
    assert site.database.notes() == notes


def test_everything_that_after_request_and_the_session_write_is_committed(site: Site) -> None:
    @site.app.after_request
    def audit(response: Response) -> Response:
        site.write("after_request")
        return response

    class Sessions(type(site.app.session_interface)):  # type: ignore[misc]
        def save_session(self, *args: Any) -> None:
            site.write("session")

    site.app.session_interface = Sessions()
    site.app.secret_key = "secret"

    @site.app.post("/")
    def view() -> Any:
        session["user"] = 1
        site.write("view")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["view", "after_request", "session"]


def test_an_after_request_function_that_turns_the_answer_into_an_error_rolls_back(
    site: Site,
) -> None:
    @site.app.after_request
    def refuse(response: Response) -> Response:
        response.status_code = 503
        return response

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        return "ok"

    assert site.client().post("/").status_code == 503
    assert site.database.notes() == []


def test_the_commit_is_done_when_the_answer_starts(site: Site) -> None:
    seen = []

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return "ok"

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        seen.append((status, site.database.notes(), site.lent()))
        return lambda data: None

    environ = site.app.test_request_context("/", method="POST").request.environ
    list(site.app.wsgi_app(environ, start_response))
    assert seen == [("200 OK", ["kept"], 0)]


# -- a commit that fails


def test_a_failing_commit_is_the_apps_own_500(site: Site) -> None:
    @site.app.errorhandler(500)
    def apology(error: Any) -> Any:
        assert isinstance(error.original_exception, pg.errors.ForeignKeyViolation)
        return "sorry", 500

    @site.app.after_request
    def cors(response: Response) -> Response:
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        site.violate()
        return "ok"

    answer = site.client().post("/")
    assert (answer.status_code, answer.text) == (500, "sorry")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert site.database.notes() == []
    assert site.lent() == 0


def test_what_the_handler_of_a_failed_commit_writes_counts_by_its_own_answer(site: Site) -> None:
    @site.app.errorhandler(500)
    def note(error: Any) -> Any:
        site.write("noted by the handler")
        return "noted", 202

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        site.violate()
        return "ok"

    assert site.client().post("/").status_code == 202
    assert site.database.notes() == ["noted by the handler"]


@pytest.mark.parametrize("kept_context", [True, False])
def test_a_failing_commit_of_a_stream_is_a_500_and_the_next_requests_work(
    site: Site, kept_context: bool
) -> None:
    def rows() -> Iterator[str]:
        yield "row"

    @site.app.post("/stream")
    def stream() -> Any:
        site.violate()
        return Response(stream_with_context(rows()) if kept_context else rows())

    @site.app.post("/plain")
    def plain() -> Any:
        site.write("kept")
        return "ok"

    client = site.client()
    for number in range(1, 11):
        answer = client.post("/stream")
        assert answer.status_code == 500
        assert "row" not in answer.text
        assert client.post("/plain").status_code == 200
        assert len(site.database.notes()) == number
        assert site.lent() == 0


def test_the_dropped_answer_of_a_failing_commit_is_closed(site: Site) -> None:
    closed = []

    @site.app.post("/")
    def view() -> Any:
        site.violate()
        response = Response("ok")
        response.call_on_close(lambda: closed.append(True))
        return response

    assert site.client().post("/").status_code == 500
    assert closed == [True]


def test_an_error_of_the_dropped_answers_close_does_not_hide_that_of_the_commit(
    site: Site,
) -> None:
    def fail() -> None:
        raise KeyError("close")

    @site.app.post("/")
    def view() -> Any:
        site.violate()
        response = Response("ok")
        response.call_on_close(fail)
        return response

    site.app.testing = True
    with pytest.raises(pg.errors.ForeignKeyViolation):
        site.client().post("/")


def test_under_testing_a_failing_commit_reaches_the_test(make_site: MakeSite) -> None:
    site = make_site(TESTING=True)

    @site.app.post("/")
    def view() -> Any:
        site.violate()
        return "ok"

    with pytest.raises(pg.errors.ForeignKeyViolation):
        site.client().post("/")
    assert site.lent() == 0


def test_a_link_lost_during_the_commit_is_commit_unknown(site: Site) -> None:
    errors = []

    @site.app.errorhandler(500)
    def unknown(error: Any) -> Any:
        errors.append(error.original_exception)
        return "ask again", 503

    @site.app.post("/")
    def view() -> Any:
        site.db.connection.cursor().execute("INSERT INTO deadly VALUES (1)")
        return "ok"

    assert site.client().post("/").status_code == 503
    assert isinstance(errors[0], CommitUnknown)
    assert isinstance(errors[0], pg.OperationalError)


# -- what a view swallows


def test_a_swallowed_database_error_is_an_error_of_the_request_never_a_silent_loss(
    site: Site,
) -> None:
    errors = []

    @site.app.errorhandler(500)
    def aborted(error: Any) -> Any:
        assert isinstance(error.original_exception, TransactionAborted)
        errors.append(str(error.original_exception))
        return "lost", 500

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        try:
            site.fail()
        except pg.Error:
            pass
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []
    assert "rolled back" in errors[0]
    assert "1 / 0" not in errors[0]


def test_a_swallowed_database_error_that_was_rolled_back_is_none(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        try:
            site.fail()
        except pg.Error:
            site.db.rollback()
        site.write("kept")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["kept"]


def test_a_swallowed_database_error_under_an_error_answer_is_just_rolled_back(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        try:
            site.fail()
        except pg.Error:
            return "no", 422

    assert site.client().post("/").status_code == 422


def test_a_swallowed_loss_of_the_link_is_an_error_of_the_request(site: Site) -> None:
    def cut() -> None:
        site.db.connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        try:
            cut()
        except pg.Error:
            pass
        return "ok"

    @site.app.post("/again")
    def again() -> Any:
        site.write("undone")
        try:
            cut()
        except pg.Error:
            site.db.rollback()
        site.write("kept")  # on a new connection
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.client().post("/again").status_code == 200
    assert site.database.notes() == ["kept"]


# -- the app's own word


def test_doom_rolls_back_whatever_the_status(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        site.db.doom()
        site.write("undone, too")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == []


def test_doom_before_the_first_use_counts_and_ends_with_its_request(site: Site) -> None:
    @site.app.post("/<int:doomed>")
    def view(doomed: int) -> Any:
        if doomed:
            site.db.doom()
        site.write(f"doomed: {doomed}")
        return "ok"

    client = site.client()
    client.post("/1")
    client.post("/0")
    assert site.database.notes() == ["doomed: 0"]


def test_a_commit_after_doom_is_refused(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        site.db.doom()
        with pytest.raises(TransactionAborted, match="doom"):
            site.db.commit()
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == []


def test_a_commit_after_doom_is_refused_although_nothing_was_taken_before(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.db.doom()
        site.write("undone")
        with pytest.raises(TransactionAborted, match="doom"):
            site.db.connection.commit()
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == []


def test_what_a_view_commits_survives_an_error_answer(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("counted")
        site.db.commit()
        site.write("undone")
        abort(401)

    assert site.client().post("/").status_code == 401
    assert site.database.notes() == ["counted"]


def test_what_a_view_rolls_back_is_gone_and_the_rest_is_committed(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        site.db.rollback()
        site.write("kept")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["kept"]


def test_a_redirect_commits(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return redirect("/elsewhere")

    site.client().post("/")
    assert site.database.notes() == ["kept"]


def test_an_after_request_function_that_always_fails_leaves_nothing_behind(site: Site) -> None:
    @site.app.after_request
    def broken(response: Response) -> Response:
        raise KeyError("bug")

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []
    assert site.lent() == 0
