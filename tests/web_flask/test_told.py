"""What is undone though no error was told: the client hears of it, else the log does."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

import flask
import pytest
from flask import Response, copy_current_request_context
from flask.signals import request_finished, request_started

from dbpool import TransactionAborted
from tests.web_flask.conftest import MakeSite, Site, pg


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the adapter has logged from WARNING on."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "dbpool.flask" and record.levelno >= logging.WARNING
    ]


# -- what fails beside ours at the end of a request


@pytest.mark.parametrize("when", ["before init_app", "after it", "after a request"])
def test_a_receiver_of_request_finished_that_fails_leaves_nothing_committed(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """Blinker calls receivers in an order of its own: ours must not depend on it."""

    def receive(sender: Any, response: Response, **kwargs: Any) -> None:
        if response.status_code < 400:
            raise KeyError("another extension's bug")

    for _ in range(20):  # the order follows from addresses
        site = make_site()
        site.app.add_url_rule("/", "view", partial(_write, site), methods=["POST"])
        if when == "after a request":
            assert site.client().get("/nowhere").status_code == 404
        with request_finished.connected_to(receive, sender=site.app):
            assert site.client().post("/").status_code == 500
            assert site.client().post("/").status_code == 500
        assert site.database.notes() == []
        assert said(caplog) == []
        assert site.lent() == 0


def _write(site: Site) -> str:
    site.write("note")
    return "ok"


def test_receivers_of_both_signals_write_in_the_transaction_of_the_request(site: Site) -> None:
    def receive(sender: Any, **kwargs: Any) -> None:
        site.write("by a receiver")

    @site.app.post("/<int:status>")
    def view(status: int) -> Any:
        return "", status

    for signal in (request_started, request_finished):
        with signal.connected_to(receive, sender=site.app):
            assert site.client().post("/200").status_code == 200
            assert site.client().post("/409").status_code == 409
    assert site.database.notes() == ["by a receiver"] * 2


@pytest.mark.parametrize("writes", [0, 1])
@pytest.mark.parametrize("status", [500, 503])
def test_what_fails_after_the_commit_is_logged_as_a_committed_error(
    site: Site, caplog: pytest.LogCaptureFixture, writes: int, status: int
) -> None:
    inner = site.app.full_dispatch_request

    def broken(*args: Any) -> Any:
        inner(*args)
        raise KeyError("another extension's bug")

    @site.app.errorhandler(500)
    def answer(error: Any) -> Any:
        return "an answer of the app's own", status

    site.app.full_dispatch_request = broken  # type: ignore[method-assign]

    @site.app.post("/<int:number>")
    def view(number: int) -> Any:
        return _write(site) if number else "ok"

    assert site.client().post(f"/{writes}").status_code == status
    assert site.database.notes() == ["note"] * writes
    messages = said(caplog)
    assert len(messages) == writes
    assert all("committed" in message for message in messages)


# -- what is open where each statement should commit by itself


@pytest.mark.parametrize("statement", ["BEGIN", "BEGIN; SELECT 1"])
def test_a_begin_that_is_never_ended_in_autocommit_mode_is_an_error_of_the_request(
    make_site: MakeSite, statement: str
) -> None:
    site = make_site(DBPOOL_TRANSACTION="autocommit")
    errors = []

    @site.app.errorhandler(500)
    def told(error: Any) -> Any:
        errors.append(error.original_exception)
        return "lost", 500

    @site.app.post("/<int:status>")
    def view(status: int) -> Any:
        site.write("kept")
        site.db.connection.cursor().execute(statement)
        site.write("undone")
        return "", status

    assert site.client().post("/200").status_code == 500
    assert isinstance(errors[0], TransactionAborted)
    assert "COMMIT" in str(errors[0])
    assert site.client().post("/409").status_code == 409  # nobody expects that to be kept
    assert site.database.notes() == ["kept", "kept"]
    assert len(errors) == 1


def test_a_transaction_that_has_failed_in_autocommit_mode_is_an_error_of_the_request(
    site: Site,
) -> None:
    @site.app.post("/")
    @site.db.autocommit
    def view() -> Any:
        site.db.connection.cursor().execute("BEGIN")
        site.write("lost")
        with pytest.raises(pg.Error):
            site.fail()
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []
    assert site.lent() == 0


def test_a_begin_that_was_ended_in_autocommit_mode_is_none(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_TRANSACTION="autocommit")

    @site.app.post("/<word>")
    def view(word: str) -> Any:
        cursor = site.db.connection.cursor()
        cursor.execute("BEGIN")
        site.write(word)
        cursor.execute(word)
        return "ok"

    assert site.client().post("/COMMIT").status_code == 200
    assert site.client().post("/ROLLBACK").status_code == 200
    assert site.database.notes() == ["COMMIT"]


@pytest.mark.parametrize("mode", ["autocommit", "manual"])
def test_a_block_that_is_never_left_is_an_error_of_the_request_in_every_mode(
    make_site: MakeSite, mode: str
) -> None:
    site = make_site(DBPOOL_TRANSACTION=mode)

    @site.app.post("/<int:doomed>")
    def view(doomed: int) -> Any:
        site.db.transaction().__enter__()
        site.write("undone")
        if doomed:
            site.db.doom()
        return "ok"

    assert site.client().post("/0").status_code == 500
    assert site.client().post("/1").status_code == 200  # asked for
    assert site.database.notes() == []
    assert site.lent() == 0


def test_a_failed_statement_in_autocommit_mode_is_no_transaction(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_TRANSACTION="autocommit")

    @site.app.post("/")
    def view() -> Any:
        try:
            site.fail()
        except pg.Error:
            site.write("kept")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["kept"]


# -- what a view that commits for itself has not committed


@pytest.mark.parametrize("how", ["decorator", "default"])
def test_what_a_manual_view_has_written_and_not_committed_is_logged(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    site = make_site(DBPOOL_TRANSACTION="manual" if how == "default" else "request")

    def view() -> Any:
        site.write("lost")
        return "created", 201

    site.app.add_url_rule(
        "/notes", view_func=site.db.manual(view) if how == "decorator" else view, methods=["POST"]
    )
    assert site.client().post("/notes").status_code == 201
    assert site.database.notes() == []
    (message,) = said(caplog)
    for word in ("'default'", "POST '/notes'", "201", "db.commit()", "db.transaction()"):
        assert word in message


def test_a_manual_view_that_loses_nothing_is_not_told_of(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @site.app.post("/<what>")
    @site.db.manual
    def view(what: str) -> Any:
        if what == "block":
            with site.db.transaction():
                site.write(what)
        elif what == "reads":
            site.db.connection.cursor().execute("SELECT 1")
        elif what != "nothing":
            site.write(what)
        if what == "commits":
            site.db.commit()
        if what == "rolls back":
            site.db.rollback()
        if what == "dooms":
            site.db.doom()
        return "", 409 if what == "refuses" else 200

    kept = ["block", "commits"]
    for what in (*kept, "reads", "nothing", "rolls back", "dooms", "refuses"):
        site.client().post(f"/{what}")
    assert site.database.notes() == kept
    assert said(caplog) == []


# -- a database error that a view has caught


def test_a_form_that_catches_an_integrity_error_is_told_which_block_to_put_around_it(
    site: Site,
) -> None:
    """Flask's own tutorial does so, on another database."""
    errors: list[Any] = []
    site.database.execute("INSERT INTO parent VALUES (1)")

    @site.app.errorhandler(500)
    def told(error: Any) -> Any:
        errors.append(error.original_exception)
        return "sorry", 500

    def register() -> None:
        site.db.connection.cursor().execute("INSERT INTO parent VALUES (1)")

    @site.app.post("/<int:block>")
    def view(block: int) -> Any:
        try:
            if block:
                with site.db.transaction():
                    register()
            else:
                register()
        except pg.IntegrityError:
            return "already registered"
        return "registered"

    assert site.client().post("/0").status_code == 500
    assert isinstance(errors[0], TransactionAborted)
    assert "`with db.transaction():`" in str(errors[0])
    assert "savepoint" not in str(errors[0])
    assert site.client().post("/1").text == "already registered"


def test_a_commit_by_hand_says_the_same(site: Site) -> None:
    with site.app.app_context():
        with pytest.raises(pg.Error):
            site.fail()
        for commit in (site.db.commit, site.db.connection.commit):
            with pytest.raises(TransactionAborted, match=r"`with db.transaction\(\):`"):
                commit()


# -- a server that has ended all sessions


def test_the_pool_is_told_of_a_lost_session_while_its_request_still_goes_on(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 2, "validate_after": 60.0})

    @site.app.get("/inner")
    def inner() -> Any:
        site.db.connection.cursor().execute("SELECT 1")
        return "ok"

    @site.app.get("/outer")
    def outer() -> Any:
        site.db.connection.cursor().execute("SELECT 1")
        assert site.client().get("/inner").status_code == 200  # opens the other one
        site.database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'dbpool%%'"
        )
        with pytest.raises(pg.OperationalError):
            site.db.connection.cursor().execute("SELECT 1")
        # The other one had been trusted for a minute.
        assert site.client().get("/inner").status_code == 200
        return "as expected", 503

    assert site.client().get("/outer").status_code == 503


# -- answers to errors


def always_failing(site: Site) -> None:
    @site.app.after_request
    def broken(response: Response) -> Response:
        raise KeyError("bug")

    @site.app.errorhandler(500)
    def answer(error: Any) -> Any:
        site.write("by the handler")
        return "", flask.request.args["status"]

    @site.app.post("/")
    def view() -> Any:
        return _write(site)


@pytest.mark.parametrize(("status", "notes"), [(200, ["by the handler"]), (409, [])])
def test_an_answer_that_after_request_functions_have_failed_for_twice_counts_as_any_other(
    site: Site, caplog: pytest.LogCaptureFixture, status: int, notes: list[str]
) -> None:
    """Flask skips request_finished then, and sends what the error handler has answered."""
    always_failing(site)
    assert site.client().post(f"/?status={status}").status_code == status
    assert site.database.notes() == notes
    assert said(caplog) == []
    assert site.lent() == 0


def test_an_error_handler_whose_work_cannot_be_committed_does_not_say_that_all_is_well(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @site.app.errorhandler(500)
    def answer(error: Any) -> Any:
        site.violate()
        return "all is well"

    @site.app.post("/")
    def view() -> Any:
        raise KeyError("bug")

    answered = site.client().post("/")
    assert answered.status_code == 500
    assert "all is well" not in answered.text
    (told,) = [r for r in caplog.records if "was not committed" in r.getMessage()]
    assert told.exc_info is not None
    assert isinstance(told.exc_info[1], pg.IntegrityError)
    assert site.lent() == 0


def test_an_error_that_is_raised_into_a_test_is_told_enough(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(TESTING=True)
    always_failing(site)
    with pytest.raises(KeyError, match="bug"):
        site.client().post("/")
    assert said(caplog) == []
    assert site.database.notes() == []


# -- contexts that end without a request's end


def test_what_an_app_context_has_written_and_not_committed_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.app.app_context():
        site.write("undone")
    (message,) = said(caplog)
    assert "'default'" in message
    assert "db.transaction()" in message
    assert site.database.notes() == []


def test_a_thread_with_a_copied_request_context_is_told_of_what_it_loses(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @site.app.post("/<int:commits>")
    def view(commits: int) -> Any:
        @copy_current_request_context
        def work() -> None:
            site.write("by a thread")
            if commits:
                site.db.commit()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return "ok"

    assert site.client().post("/1").status_code == 200
    assert said(caplog) == []
    assert site.client().post("/0").status_code == 200
    assert site.database.notes() == ["by a thread"]
    assert len(said(caplog)) == 1


def test_nothing_is_logged_of_contexts_that_lose_nothing_or_have_failed(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_after_writing() -> None:
        site.write("undone by the error")
        site.fail()

    with site.app.app_context():
        site.db.connection.cursor().execute("SELECT 1")
    with site.app.app_context(), site.db.transaction():
        site.write("kept")
    with site.app.app_context():
        site.write("undone by hand")
        site.db.rollback()
    with pytest.raises(pg.Error), site.app.app_context():
        fails_after_writing()
    with site.app.app_context():
        site.write("doomed")
        site.db.doom()
    assert said(caplog) == []
    assert site.database.notes() == ["kept"]


def test_a_swallowed_error_in_an_app_context_is_logged_as_lost_work(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.app.app_context():
        site.write("undone")
        with pytest.raises(pg.Error):
            site.fail()
    assert len(said(caplog)) == 1


def test_looking_for_lost_work_is_bounded_and_harmless_where_the_link_is_gone(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.app.app_context():
        site.write("undone")
        pid = site.db.connection.info.backend_pid
        site.database.execute("SELECT pg_terminate_backend(%s, 5000)", pid)
    assert len(said(caplog)) == 1
    assert site.lent() == 0
