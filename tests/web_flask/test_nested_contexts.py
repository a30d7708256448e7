"""An app context that is entered in a view is a unit of work of its own, whatever Flask it is."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from flask import Response, copy_current_request_context, stream_with_context
from werkzeug.routing import BaseConverter

from dbpool import PoolTimeout
from tests.web_flask.conftest import MakeSite, Site


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "dbpool.flask" and record.levelno >= logging.WARNING
    ]


def test_what_it_writes_is_undone_unless_it_commits_and_the_log_says_so(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("of the request")
        mine = site.db.connection
        with site.app.app_context():
            assert site.db.connection is not mine
            site.write("lost with its context")
        assert site.db.connection is mine
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["of the request"]
    (message,) = said(caplog)
    assert "app context" in message
    assert "db.transaction()" in message


def test_what_it_commits_stays_whatever_becomes_of_the_request(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        with site.app.app_context():
            site.db.on_commit(lambda: called.append("inner"))
            with site.db.transaction():
                site.write("block")
            assert called == ["inner"]
            site.write("committed")
            site.db.commit()
        return "no", 409

    assert site.client().post("/").status_code == 409
    assert site.database.notes() == ["block", "committed"]
    assert said(caplog) == []


def test_contexts_nest_as_often_as_they_like(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        connections = [site.db.connection]
        with site.app.app_context():
            connections.append(site.db.connection)
            with site.app.app_context():
                connections.append(site.db.connection)
                assert site.lent() == 3
            assert site.db.connection is connections[1]
        assert site.db.connection is connections[0]
        assert len(set(map(id, connections))) == 3
        return "ok"

    assert site.client().post("/").status_code == 200


def test_it_holds_in_requests_that_share_an_app_context_with_what_is_around_them(
    site: Site,
) -> None:
    """As in tests whose fixture enters one, and for requests within a request."""

    @site.app.post("/inner")
    def inner() -> Any:
        site.write("inner")
        with site.app.app_context():
            site.write("lost")
        with site.app.app_context(), site.db.transaction():
            site.write("inner block")
        site.write("inner again")
        return "ok"

    @site.app.post("/outer")
    def outer() -> Any:
        site.write("outer")
        assert site.client().post("/inner").status_code == 200
        with site.app.app_context():
            assert site.client().post("/inner").status_code == 200
        site.write("outer again")
        return "ok"

    notes = ["inner block", "inner", "inner again"] * 2 + ["outer", "outer again"]
    with site.app.app_context():
        assert site.client().post("/outer").status_code == 200
        assert sorted(site.database.notes()) == sorted(notes)
        assert site.lent() == 0
    site.database.execute("TRUNCATE note")
    assert site.client().post("/outer").status_code == 200
    assert sorted(site.database.notes()) == sorted(notes)


def test_it_holds_in_a_request_of_a_test_that_is_never_dispatched(site: Site) -> None:
    for outer in (False, True):
        context = site.app.app_context() if outer else None
        if context is not None:
            context.push()
        with site.app.test_request_context("/"):
            mine = site.db.connection
            with site.app.app_context():
                assert site.db.connection is not mine
            assert site.db.connection is mine
        if context is not None:
            context.pop()


def test_it_holds_in_streams(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    @site.app.post("/")
    def view() -> Any:
        def rows() -> Any:
            with site.app.app_context(), site.db.transaction():
                site.write("by the stream")
            site.db.connection.cursor().execute("SELECT 1")
            yield "row"

        return Response(stream_with_context(rows()))

    assert site.client().post("/").text == "row"
    with site.app.app_context():
        assert site.client().post("/").text == "row"
    assert site.database.notes() == ["by the stream"] * 2
    assert site.lent() == 0


def test_it_holds_in_threads_with_a_copied_request_context(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        @copy_current_request_context
        def work() -> None:
            site.write("by the thread")
            with site.app.app_context(), site.db.transaction():
                site.write("nested")
            site.db.commit()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return "ok"

    assert site.client().post("/").status_code == 200
    assert sorted(site.database.notes()) == ["by the thread", "nested"]


def test_what_queries_before_the_view_is_known_belongs_to_the_request(site: Site) -> None:
    class Noted(BaseConverter):
        def to_python(self, value: str) -> str:
            site.write(value)
            return value

    site.app.url_map.converters["noted"] = Noted

    @site.app.get("/<noted:name>")
    def view(name: str) -> Any:
        return "no", 409 if name == "undone" else 200

    for enter in (False, True):
        context = site.app.app_context() if enter else None
        if context is not None:
            context.push()
        assert site.client().get("/kept").status_code == 200
        assert site.client().get("/undone").status_code == 409
        if context is not None:
            context.pop()
    assert site.database.notes() == ["kept"] * 2


def test_the_context_of_another_app_is_another_apps(make_site: MakeSite) -> None:
    one, two = make_site(), make_site()

    @one.app.post("/")
    def view() -> Any:
        one.write("undone")
        with two.app.app_context(), two.db.transaction():
            two.write("of another app")
        return "no", 409

    assert one.client().post("/").status_code == 409
    assert one.database.notes() == ["of another app"]


def test_the_context_of_another_app_is_its_own_in_a_request_that_is_never_dispatched(
    make_site: MakeSite,
) -> None:
    one, two = make_site(), make_site()
    with one.app.app_context(), one.app.test_request_context("/"):
        with two.app.app_context():
            with two.db.transaction():
                two.write("of another app")
            assert (one.lent(), two.lent()) == (0, 1)
        assert (one.lent(), two.lent()) == (0, 0)


def test_with_one_connection_for_both_the_nested_one_waits_in_vain(make_site: MakeSite) -> None:
    """Two units are two connections: a pool of one says so, by name of who holds it."""
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "timeout": 0.05})

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        with site.app.app_context(), pytest.raises(PoolTimeout):
            _ = site.db.connection
        return "no", 409

    assert site.client().post("/").status_code == 409
