"""Streamed answers: they hold no connection, and cannot lose what their view wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from flask import Response, stream_with_context

from dbpool_flask import ConnectionReleased
from tests.web_flask.conftest import Site


@pytest.mark.parametrize("kept_context", [True, False])
def test_a_stream_holds_no_connection_at_its_first_byte_and_is_committed(
    site: Site, kept_context: bool
) -> None:
    seen = []

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")

        def rows() -> Iterator[str]:
            seen.append((site.lent(), site.database.notes()))
            yield "row"

        return Response(stream_with_context(rows()) if kept_context else rows())

    assert site.client().post("/").text == "row"
    assert seen == [(0, ["kept"])]


def test_a_stream_that_reads_gets_a_fresh_connection_and_gives_it_back(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("one")
        site.write("two")

        def rows() -> Iterator[str]:
            with site.db.connection.cursor() as cursor:
                cursor.execute("SELECT text FROM note ORDER BY id")
                for (text,) in cursor:
                    yield f"{text} "

        return Response(stream_with_context(rows()))

    for _ in range(3):
        assert site.client().post("/").text.startswith("one two ")
        assert site.lent() == 0


def test_a_stream_cannot_write_what_nobody_would_commit(site: Site) -> None:
    errors = []

    @site.app.post("/")
    def view() -> Any:
        def rows() -> Iterator[str]:
            try:
                site.write("lost")
            except psycopg2.Error as error:
                errors.append(str(error))
            yield "row"

        return Response(stream_with_context(rows()))

    assert site.client().post("/").text == "row"
    assert "read-only transaction" in errors[0]
    assert site.lent() == 0


def test_a_stream_writes_in_a_block_of_its_own(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        def rows() -> Iterator[str]:
            with site.db.transaction():
                site.write("kept")
            yield "row"

        return Response(stream_with_context(rows()))

    assert site.client().post("/").text == "row"
    assert site.database.notes() == ["kept"]
    assert site.lent() == 0


@pytest.mark.parametrize("server_side", [False, True])
def test_a_cursor_of_the_view_does_not_serve_its_stream(site: Site, server_side: bool) -> None:
    site.database.execute("INSERT INTO note (text) SELECT 'x' FROM generate_series(1, 5000)")
    errors = []

    @site.app.get("/")
    def view() -> Any:
        cursor = site.db.connection.cursor(**({"name": "on_the_server"} if server_side else {}))
        cursor.execute("SELECT text FROM note")
        rows = iter(cursor)
        first = next(rows)

        def body() -> Iterator[str]:
            yield first[0]
            for way in (lambda: next(rows), cursor.fetchone, lambda: list(cursor)):
                try:
                    way()
                except ConnectionReleased as error:
                    errors.append(str(error))

        return Response(body())

    assert site.client().get("/").text == "x"
    assert len(errors) == 3
    assert "before the view returns" in errors[0]
    assert site.lent() == 0


def test_a_stream_that_breaks_off_gives_its_connection_back(site: Site) -> None:
    @site.app.get("/")
    def view() -> Any:
        def rows() -> Iterator[str]:
            site.db.connection.cursor().execute("SELECT 1")
            yield "row"
            raise KeyError("bug")

        return Response(stream_with_context(rows()))

    answer = site.client().get("/", buffered=False)
    with pytest.raises(KeyError):
        _ = answer.data
    assert site.lent() == 0


def test_a_client_that_goes_away_gives_the_streams_connection_back(site: Site) -> None:
    @site.app.get("/")
    def view() -> Any:
        def rows() -> Iterator[str]:
            site.db.connection.cursor().execute("SELECT 1")
            while True:
                yield "row"

        return Response(stream_with_context(rows()))

    environ = site.app.test_request_context("/").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
    next(iter(body))
    assert site.lent() == 1
    body.close()  # as a server does that has noticed
    assert site.lent() == 0
