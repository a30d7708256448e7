"""Connections that teardown functions and receivers of signals take: given back, and kept."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from flask import Flask, Response, render_template_string, signals, stream_with_context

from dbpool_flask import DBPool
from tests.web_flask.conftest import DRIVER, Database, MakeSite, Site

SIGNALS = (
    "request_started",
    "template_rendered",
    "before_render_template",
    "message_flashed",
    "request_finished",
    "request_tearing_down",
    "appcontext_tearing_down",
)


def read(site: Site) -> int:
    with site.db.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return int(cursor.fetchone()[0])


def assert_kept(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """All is back, in the session that was there before, and nobody complained."""
    assert site.lent() == 0
    assert site.pool.get_stats()["connections_num"] == 1
    assert [r.getMessage() for r in caplog.records if r.name.startswith("dbpool")] == []


def early(database: Database) -> tuple[Flask, DBPool]:
    """An app whose extension is set up last, so that its teardown functions run last, too."""
    app, db = Flask("early"), DBPool()
    app.config["DBPOOL_URL"] = database.url
    app.config["DBPOOL_OPTIONS"] = {"driver": DRIVER}
    return app, db


@pytest.mark.parametrize("first", ["teardown function", "extension"])
@pytest.mark.parametrize("kind", ["teardown_request", "teardown_appcontext"])
@pytest.mark.parametrize("uses", [False, True])
def test_what_a_teardown_function_takes_is_given_back(
    database: Database, caplog: pytest.LogCaptureFixture, first: str, kind: str, uses: bool
) -> None:
    app, db = early(database)
    site = Site(app, db, database)

    def set_up() -> None:
        getattr(app, kind)(lambda error: read(site))

    steps = [set_up, lambda: db.init_app(app)]
    for step in steps if first == "teardown function" else reversed(steps):
        step()
    app.add_url_rule("/", "view", lambda: str(read(site)) if uses else "1")
    for _ in range(3):
        assert site.client().get("/").text == "1"
        assert site.lent() == 0
    with app.app_context():
        pass
    assert_kept(site, caplog)
    site.pool.close()


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("uses", [False, True])
def test_what_a_receiver_of_a_signal_takes_is_given_back(
    site: Site, caplog: pytest.LogCaptureFixture, name: str, uses: bool
) -> None:
    seen: list[int] = []
    site.app.secret_key = "of these tests"

    def receive(sender: Any, **kwargs: Any) -> None:
        seen.append(read(site))

    @site.app.get("/")
    def view() -> Any:
        if uses:
            read(site)
        flask.flash("once")
        return render_template_string("page")

    with getattr(signals, name).connected_to(receive, site.app):
        for _ in range(3):
            assert site.client().get("/").text == "page"
    assert seen == [1] * 3
    with site.app.app_context():
        pass
    assert_kept(site, caplog)


def test_what_a_receiver_of_got_request_exception_takes_is_given_back(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    site = make_site()

    def receive(sender: Any, **kwargs: Any) -> None:
        seen.append(read(site))

    @site.app.get("/")
    def view() -> Any:
        raise KeyError

    with signals.got_request_exception.connected_to(receive, site.app):
        assert site.client().get("/").status_code == 500
        site.app.testing = True
        with pytest.raises(KeyError):
            site.client().get("/")
    assert seen == [1, 1]
    assert_kept(site, caplog)


def test_a_teardown_function_that_takes_one_and_fails_leaves_none_out(
    database: Database,
) -> None:
    app, db = early(database)
    site = Site(app, db, database)
    app.testing = True

    @app.teardown_request
    @app.teardown_appcontext
    def broken(error: BaseException | None) -> None:
        read(site)
        raise ZeroDivisionError

    db.init_app(app)
    app.add_url_rule("/", "view", lambda: "ok")
    pool = app.extensions["dbpool"].pools()["default"]  # past the teardown of a context
    for _ in range(3):
        with pytest.raises(BaseException):  # noqa: B017 (Flask 3.2 raises a group of them)
            site.client().get("/")
        stats = pool.get_stats()
        assert (stats["pool_size"], stats["pool_available"]) == (1, 1)
    assert stats["connections_num"] == 1
    pool.close()


def test_a_teardown_function_writes_in_a_block_of_its_own(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @site.app.teardown_request
    def audit(error: BaseException | None) -> None:
        with site.db.transaction():
            site.write(type(error).__name__)

    @site.app.post("/<int:fails>")
    def view(fails: int) -> Any:
        site.write("view")
        return 1 / 0 if fails else "ok"

    assert site.client().post("/0").status_code == 200
    assert site.client().post("/1").status_code == 500
    assert site.database.notes() == ["view", "NoneType", "ZeroDivisionError"]
    assert site.lent() == 0


def test_a_kept_test_context_gives_back_what_is_taken_after_its_answer(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.app.add_url_rule("/", "view", lambda: str(read(site)))
    with site.client() as client:
        for _ in range(3):
            assert client.get("/").text == "1"
            assert read(site) == 1
    assert_kept(site, caplog)


@pytest.mark.parametrize("kept", [False, True])
def test_teardown_that_follows_a_stream_gives_back_as_well(
    site: Site, caplog: pytest.LogCaptureFixture, kept: bool
) -> None:
    site.app.teardown_request(lambda error: read(site))
    if not kept:  # up to Flask 3.1 the app context is another one than the request's, which has one
        site.app.teardown_appcontext(lambda error: read(site))

    @site.app.get("/")
    def view() -> Any:
        def rows() -> Any:
            yield str(read(site))

        return Response(site.db.keep_open(rows()) if kept else stream_with_context(rows()))

    for _ in range(3):
        assert site.client().get("/").text == "1"
        assert site.lent() == 0
    assert_kept(site, caplog)
