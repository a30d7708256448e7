"""Streamed answers: they hold no connection, and cannot lose what their view wrote."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Response, stream_with_context

from dbpool import PoolError, PoolTimeout
from dbpool_flask import ConnectionReleased
from tests.support.callers import open_one
from tests.support.waiting import wait_until
from tests.web_flask.conftest import DRIVER, MakeSite, Site, pg


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
            except pg.Error as error:
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


# -- db.keep_open


def test_a_stream_that_is_kept_open_writes_reads_and_commits_at_its_end(site: Site) -> None:
    seen: list[Any] = []

    @site.app.post("/")
    def view() -> Any:
        site.write("view")
        connection = site.db.connection

        def rows() -> Iterator[str]:
            assert site.db.connection is connection
            seen.append(site.database.notes())
            for number in range(3):
                site.write(f"row {number}")
                yield f"{number} "

        site.db.on_commit(lambda: seen.append("committed"))
        return Response(site.db.keep_open(rows()))

    for _ in range(2):
        answer = site.client().post("/")
        assert (answer.status_code, answer.text) == (200, "0 1 2 ")
        assert site.lent() == 0
    notes = ["view", "row 0", "row 1", "row 2"]
    assert seen == [[], "committed", notes, "committed"]
    assert site.database.notes() == notes * 2


def test_a_stream_that_is_kept_open_may_take_its_connection_itself(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        def rows() -> Iterator[str]:
            site.write("kept")
            yield "row"

        return Response(site.db.keep_open(rows()))

    assert site.client().post("/").text == "row"
    assert site.database.notes() == ["kept"]
    assert site.lent() == 0


def test_a_stream_that_is_kept_open_keeps_its_connection_however_many_want_one(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1})

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return Response(site.db.keep_open(iter(["first ", "second"])))

    environ = site.app.test_request_context("/", method="POST").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
    chunks = iter(body)
    assert next(chunks) == b"first "
    with pytest.raises(PoolTimeout):
        site.pool.getconn(timeout=1.0)
    assert list(chunks) == [b"second"]
    body.close()
    assert site.database.notes() == ["kept"]
    assert site.lent() == 0


@pytest.mark.parametrize("end", ["error", "gone", "unread"])
def test_a_stream_that_is_kept_open_and_breaks_off_is_rolled_back(site: Site, end: str) -> None:
    closed = []

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")

        def rows() -> Iterator[str]:
            try:
                yield "row"
                yield "row"
                if end == "error":
                    raise KeyError("bug")
                yield "row"
            finally:
                closed.append(True)

        return Response(site.db.keep_open(rows()))

    environ = site.app.test_request_context("/", method="POST").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
    assert site.lent() == 1
    if end != "unread":
        chunks = iter(body)
        next(chunks)
        if end == "error":
            with pytest.raises(KeyError):
                next(chunks)
    body.close()
    assert closed == [True] * (end != "unread")
    assert site.lent() == 0
    assert site.database.notes() == []


@pytest.mark.parametrize("chunks", [["row ", "row ", "end"], ["row ", "", "row ", "end", "", ""]])
def test_a_commit_that_fails_at_the_end_of_a_kept_stream_breaks_the_body_off_before_its_last_chunk(
    site: Site, chunks: list[str]
) -> None:
    """To a client of HTTP/1.0 nothing else can tell it from a whole answer."""

    @site.app.post("/")
    def view() -> Any:
        site.violate()
        return Response(site.db.keep_open(iter(chunks)))

    environ = site.app.test_request_context("/", method="POST").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
    sent: list[bytes] = []
    with pytest.raises(pg.errors.ForeignKeyViolation):
        sent.extend(iter(body))
    body.close()
    assert sent == [b"row ", b"row "]
    assert site.lent() == 0


@pytest.mark.parametrize("chunks", [["whole"], [], [""]])
def test_a_commit_that_fails_on_a_kept_stream_of_one_chunk_or_none_comes_before_any_byte(
    site: Site, chunks: list[str]
) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.violate()
        return Response(site.db.keep_open(iter(chunks)))

    with pytest.raises(pg.errors.ForeignKeyViolation):
        site.client().post("/")
    assert site.lent() == 0


@pytest.mark.parametrize("last", ["end", b"end"])
def test_a_kept_stream_is_committed_before_its_last_chunk_is_sent_and_keeps_its_order(
    site: Site, last: Any
) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return Response(site.db.keep_open(iter(["one ", "", "two ", last, ""])))

    environ = site.app.test_request_context("/", method="POST").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
    sent = b""
    for chunk in body:
        sent += chunk
        assert site.database.notes() == (["kept"] if b"end" in sent else [])
    assert sent == b"one two end"
    body.close()
    assert site.lent() == 0


def test_a_client_that_goes_away_after_the_commit_changes_nothing(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return Response(site.db.keep_open(iter(["one ", "two"])))

    environ = site.app.test_request_context("/", method="POST").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
    chunks = iter(body)
    assert [next(chunks), next(chunks)] == [b"one ", b"two"]
    body.close()
    assert site.database.notes() == ["kept"]
    assert site.lent() == 0


def test_a_kept_stream_that_could_never_be_committed_is_an_error_before_it_starts(
    site: Site,
) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        with pytest.raises(pg.Error):
            site.fail()
        return Response(site.db.keep_open(iter(["row"])))

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []
    assert site.lent() == 0


@pytest.mark.parametrize("status", [200, 409])
def test_a_kept_stream_that_is_not_the_answer_keeps_nothing_open(site: Site, status: int) -> None:
    @site.app.errorhandler(KeyError)
    def handler(error: KeyError) -> Any:
        site.write("by status")
        return "handled", status

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        kept = site.db.keep_open(iter(["row"]))
        raise KeyError(kept)

    assert site.client().post("/").status_code == status
    assert site.database.notes() == (["by status"] if status == 200 else [])
    assert site.lent() == 0


def test_a_kept_stream_with_an_error_status_is_rolled_back(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        return Response(site.db.keep_open(iter(["no"])), 409)

    answer = site.client().post("/")
    assert (answer.status_code, answer.text) == (409, "no")
    assert site.database.notes() == []
    assert site.lent() == 0


def test_a_kept_stream_that_is_consumed_in_the_view_is_an_ordinary_answer(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return "".join(site.db.keep_open(iter(["one ", "two"])))

    assert site.client().post("/").text == "one two"
    assert site.database.notes() == ["kept"]


def test_a_stream_is_kept_open_for_a_limited_time(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        return Response(site.db.keep_open(iter(["one", "two"]), seconds=1e-9))

    with pytest.raises(PoolError, match="longer than 1e-09 s"):
        site.client().post("/")
    assert site.database.notes() == []


def test_a_kept_stream_whose_client_stalls_loses_its_connection_to_those_who_wait(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "timeout": 5})

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")

        def rows() -> Iterator[str]:
            yield "one"
            site.write("undone")
            yield "two"

        return Response(site.db.keep_open(rows(), seconds=0.01))

    environ = site.app.test_request_context("/", method="POST").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)

    def wait_for_it() -> None:
        with site.app.app_context(), site.db.transaction():
            site.write("kept")

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    thread.join()
    with pytest.raises((PoolError, pg.Error)):
        list(body)
    body.close()
    assert site.database.notes() == ["kept"]


def test_only_one_stream_keeps_a_request_open_and_only_in_a_view(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.db.keep_open(iter(["row"]))
        with pytest.raises(RuntimeError, match="by a stream already"):
            site.db.keep_open(iter(["row"]))
        return "ok"

    assert site.client().post("/").status_code == 200
    with site.app.app_context(), pytest.raises(RuntimeError, match="call it there"):
        site.db.keep_open(iter(["row"]))


# -- streams that nobody ends


def test_a_reading_stream_that_nobody_ends_loses_its_connection_to_those_who_wait(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Flask itself complains, unraisably, when at last such a stream is collected.
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    monkeypatch.setattr("dbpool_flask._late.PATIENCE", 0.01)
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "timeout": 10})
    errors = []

    @site.app.get("/stream")
    def stream() -> Any:
        def rows() -> Iterator[str]:
            cursor = site.db.connection.cursor()
            cursor.execute("SELECT generate_series(1, 3)")
            yield str(cursor.fetchone()[0])
            old = cursor.connection
            for way in (
                cursor.fetchone,
                lambda: list(cursor),
                lambda: old.get_backend_pid(),
                old.cursor,
            ):
                try:
                    way()
                except ConnectionReleased as error:
                    errors.append(str(error))
            with site.db.connection.cursor() as another:
                another.execute("SELECT 'end'")
                yield another.fetchone()[0]

        return Response(stream_with_context(rows()))

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return "ok"

    bodies: list[Any] = []
    statuses: list[int] = []

    def serve() -> None:
        environ = site.app.test_request_context("/stream").request.environ
        bodies.append(iter(site.app.wsgi_app(environ, lambda *args: lambda data: None)))
        assert next(bodies[0]) == b"1"
        assert site.lent() == 1
        for _ in range(3):
            statuses.append(site.client().post("/").status_code)
        assert next(bodies[0]) == b"end"

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert statuses == [200, 200, 200]
    assert len(errors) == 4
    bodies.clear()
    wait_until(lambda: gc.collect() >= 0 and site.lent() == 0, message="it is back")
    assert site.database.notes() == ["kept"] * 3


def test_a_stream_that_writes_in_a_block_keeps_its_connection(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbpool_flask._late.PATIENCE", 0.0)
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "timeout": 1.2})
    open_one(site.pool)

    @site.app.get("/stream")
    def stream() -> Any:
        def rows() -> Iterator[str]:
            with site.db.transaction():
                site.write("kept")
                yield "one"
            yield "two"

        return Response(stream_with_context(rows()))

    environ = site.app.test_request_context("/stream").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
    chunks = iter(body)
    assert next(chunks) == b"one"
    with pytest.raises(PoolTimeout):
        site.pool.getconn()
    assert next(chunks) == b"two"
    body.close()
    assert site.database.notes() == ["kept"]


@pytest.mark.parametrize(
    "way",
    [
        "execute",
        pytest.param("stream", marks=pytest.mark.skipif(DRIVER != "psycopg", reason="psycopg 3's")),
    ],
)
def test_a_stream_that_is_reading_keeps_its_connection_however_many_wait(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("dbpool_flask._late.PATIENCE", 1.2)
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "timeout": 10})

    @site.app.get("/stream")
    def stream() -> Any:
        def rows() -> Iterator[str]:
            with site.db.connection.cursor() as cursor:
                # Until somebody waits, and then for longer than the pool takes to look.
                assert len(list(getattr(cursor, way)("SELECT pg_sleep(2.5)") or cursor)) == 1
                yield "whole"

        return Response(stream_with_context(rows()))

    waited: list[bool] = []

    def wait() -> None:
        wait_until(lambda: site.lent() == 1)
        with site.app.app_context(), site.db.transaction():
            waited.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    assert site.client().get("/stream").text == "whole"
    thread.join()
    assert waited == [True]
    assert site.pool.get_stats()["connections_dropped"] == 0


@pytest.mark.parametrize("status", [200, 500])
def test_a_kept_open_stream_that_is_read_before_the_answer_ends_with_the_request(
    site: Site, status: int
) -> None:
    @site.app.after_request
    def pack(response: Response) -> Response:
        whole = response.get_data()
        response.response = (chunk for chunk in [whole])  # a stream again, of another body
        response.status_code = status
        return response

    @site.app.post("/")
    def view() -> Any:
        def rows() -> Iterator[str]:
            site.write("by the stream")
            yield "row"

        return Response(site.db.keep_open(rows()))

    assert site.client().post("/").text == "row"
    assert site.lent() == 0
    assert site.database.notes() == (["by the stream"] if status == 200 else [])


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_an_answer_without_a_body_is_committed_though_a_stream_was_to_keep_it_open(
    site: Site, method: str, status: int
) -> None:
    @site.app.get("/")
    def view() -> Any:
        site.write("kept")
        return Response(site.db.keep_open(iter(["row"])), status)

    assert site.client().open("/", method=method).status_code == status
    assert site.lent() == 0
    assert site.database.notes() == ["kept"]
