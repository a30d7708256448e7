"""What is undone though no error was told: the client hears of it, else the log does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from flask import Response, copy_current_request_context
from flask.signals import request_finished

from dbpool import TransactionAborted
from tests.web_flask.conftest import MakeSite, Site, pg


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the adapter has logged from WARNING on."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "dbpool.flask" and record.levelno >= logging.WARNING
    ]


# -- another receiver of request_finished that fails


class Broken:
    """Another extension, with a bug."""

    def receive(self, sender: Any, response: Response, **kwargs: Any) -> None:
        if response.status_code < 400:
            raise KeyError("another extension's bug")


@contextmanager
def another_receiver(
    make_site: MakeSite, view: Callable[[Site, int], Any], *, after_ours: bool
) -> Iterator[Site]:
    """Make a site with a receiver that fails, before or after ours; blinker promises no order."""
    kept = []
    for _ in range(100):  # the order follows from the addresses of both
        site, other = make_site(), Broken()
        kept.append((site, other))
        site.app.add_url_rule("/<int:number>", "view", partial(view, site), methods=["POST"])
        with request_finished.connected_to(other.receive, sender=site.app):
            assert site.client().get("/nowhere").status_code == 404  # ours comes with a request
            ours = site.app.extensions["dbpool"]._finished
            order = list(request_finished.receivers_for(site.app))
            if (order.index(other.receive) > order.index(ours)) is after_ours:
                yield site
                return
    raise AssertionError("no receiver got the place that this test needs")


def test_a_function_that_receives_request_finished_and_fails_leaves_nothing_committed(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def receive(sender: Any, response: Response, **kwargs: Any) -> None:
        if response.status_code < 400:
            raise KeyError("another extension's bug")

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        return "ok"

    # Connected after init_app, as by nearly everybody, and before the first request.
    with request_finished.connected_to(receive, sender=site.app):
        assert site.client().post("/").status_code == 500
        assert site.client().post("/").status_code == 500
    assert site.database.notes() == []
    assert said(caplog) == []


def test_a_receiver_that_fails_before_ours_leaves_nothing_committed(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    def view(site: Site, number: int) -> Any:
        site.write("undone")
        return "ok"

    with another_receiver(make_site, view, after_ours=False) as site:
        assert site.client().post("/1").status_code == 500
    assert site.database.notes() == []
    assert said(caplog) == []


def test_a_receiver_that_fails_after_the_commit_is_logged_as_a_committed_error(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    def view(site: Site, number: int) -> Any:
        if number:
            site.write("kept")
        return "ok"

    with another_receiver(make_site, view, after_ours=True) as site:
        assert site.client().post("/0").status_code == 500
        assert said(caplog) == []  # nothing was committed
        assert site.client().post("/1").status_code == 500
    assert site.database.notes() == ["kept"]
    (message,) = said(caplog)
    assert "request_finished" in message
    assert "committed" in message


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


# -- an answer that Flask lets go without request_finished


def always_failing(site: Site) -> None:
    @site.app.after_request
    def broken(response: Response) -> Response:
        raise KeyError("bug")

    @site.app.errorhandler(500)
    def fine(error: Any) -> Any:
        return "all is well", 200

    @site.app.post("/<int:writes>")
    def view(writes: int) -> Any:
        site.db.connection.cursor().execute("SELECT 1")
        if writes:
            site.write("undone")
        return "ok"


def test_what_an_answer_without_request_finished_loses_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """An after_request function fails, and once more on the error handler's answer."""
    always_failing(site)
    assert site.client().post("/0").status_code == 200
    assert said(caplog) == []  # it has only read
    assert site.client().post("/1").status_code == 200
    assert site.database.notes() == []
    (message,) = said(caplog)
    assert "after_request" in message
    assert "'default'" in message


def test_an_error_that_is_raised_into_a_test_is_told_enough(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(TESTING=True)
    always_failing(site)
    with pytest.raises(KeyError, match="bug"):
        site.client().post("/1")
    assert said(caplog) == []


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
