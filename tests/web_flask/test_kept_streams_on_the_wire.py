"""A kept stream whose commit fails, as clients of real servers see it.

In HTTP/1.0, which nginx speaks to an app unless it is told otherwise, the end of the connection is
the end of the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from flask import Flask
from werkzeug.serving import make_server as make_development_server

from tests.web_flask import served_app
from tests.web_flask.conftest import Database
from tests.web_flask.gunicorn_server import GunicornServer, exchange


@contextmanager
def gunicorn(url: str, folder: Path) -> Iterator[int]:
    with GunicornServer(url, folder, "--worker-class", "sync") as server:
        yield server.port


@contextmanager
def werkzeug(url: str, folder: Path) -> Iterator[int]:
    """Flask's development server: it chunks whatever the client speaks."""
    with own_app() as app, served(make_development_server("127.0.0.1", 0, app)) as port:
        yield port


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def wsgiref(url: str, folder: Path) -> Iterator[int]:
    """Python's own: it speaks HTTP/1.0."""
    with own_app() as app, served(make_server("127.0.0.1", 0, app, handler_class=Quiet)) as port:
        yield port


@contextmanager
def own_app() -> Iterator[Flask]:
    app = served_app.create_app()
    yield app
    with app.app_context():
        served_app.db.pools["default"].close()


@contextmanager
def served(server: Any) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(
    scope="module", params=[gunicorn, werkzeug, wsgiref], ids=lambda serve: serve.__name__
)
def port(
    request: pytest.FixtureRequest,
    _database: Database,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    """A server with the app of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVED_URL", _database.url)
        with request.param(_database.url, tmp_path_factory.mktemp("served")) as port:
            yield port


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_the_last_chunk_is_never_sent(port: int, protocol: str) -> None:
    status, headers, body = exchange(port, "/keep/violates", protocol)
    assert status.split()[1] == b"200"
    assert b"one " in body
    assert b"two " in body
    assert b"end" not in body
    if b"chunked" in headers.lower():
        assert not body.endswith(b"0\r\n\r\n"), "the client would take it for a whole answer"


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_an_answer_of_a_stated_length_is_too_short(port: int, protocol: str) -> None:
    status, headers, body = exchange(port, "/keep/length", protocol)
    assert status.split()[1] == b"200"
    assert b"content-length: 11" in headers.lower()
    assert body == b"one two "


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_an_answer_of_no_chunk_is_an_error_of_the_server(port: int, protocol: str) -> None:
    assert exchange(port, "/keep/empty", protocol)[0].split()[1] == b"500"


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_a_commit_that_succeeds_is_a_whole_answer(
    port: int, database: Database, protocol: str
) -> None:
    status, headers, body = exchange(port, "/keep/whole", protocol)
    assert status.split()[1] == b"200"
    assert body.endswith(b"0\r\n\r\n" if b"chunked" in headers.lower() else b"one two end")
    assert database.notes() == ["kept"]
