"""The app that gunicorn serves in these tests; every route does one thing to the database."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, stream_with_context
from psycopg2 import extensions

from dbpool_flask import DBPool
from tests.support import inside

db = DBPool()
LOCK = 20_482  # an advisory lock that a test holds


def write(text: str) -> None:
    with db.connection.cursor() as cursor:
        cursor.execute("INSERT INTO note (text) VALUES (%s)", [text])


def wait_in_gevent(conn: Any) -> None:
    """Let psycopg2 wait as gevent wants it, as docs/flask.md has it."""
    from gevent.socket import wait_read, wait_write

    while (state := conn.poll()) != extensions.POLL_OK:
        (wait_read if state == extensions.POLL_READ else wait_write)(conn.fileno())


def create_app() -> Flask:
    app = Flask(__name__)
    # Where gunicorn has patched everything: other tests of the same process may import gevent.
    if "gevent.monkey" in sys.modules and sys.modules["gevent.monkey"].is_module_patched("socket"):
        extensions.set_wait_callback(wait_in_gevent)
    app.config["DBPOOL_URL"] = os.environ["SERVED_URL"]
    app.config["DBPOOL_OPTIONS"] = {"max_size": 2, "timeout": 5}
    db.init_app(app)

    @app.errorhandler(500)
    def sorry(error: Any) -> Any:
        return "sorry", 500

    @app.after_request
    def cors(response: Response) -> Response:
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    @app.get("/plain")
    def plain() -> Any:
        return "plain"

    @app.get("/write/<text>")
    def written(text: str) -> Any:
        write(text)
        return "written"

    @app.get("/violate/<kind>")
    def violate(kind: str) -> Any:
        db.connection.cursor().execute("INSERT INTO child VALUES (1)")
        if kind == "plain":
            return "lost"
        rows = iter(["lost"])
        return Response(stream_with_context(rows) if kind == "context" else rows)

    @app.get("/keep/<kind>")
    def keep(kind: str) -> Any:
        db.connection.cursor().execute(
            "INSERT INTO note (text) VALUES ('kept')"
            if kind == "whole"
            else "INSERT INTO child VALUES (1)"
        )
        answer = Response(db.keep_open(iter([] if kind == "empty" else ["one ", "two ", "end"])))
        if kind == "length":
            answer.content_length = len("one two end")
        return answer

    @app.get("/who/<text>")
    def who(text: str) -> Any:
        cursor = db.connection.cursor()
        cursor.execute("INSERT INTO note (text) VALUES (%s) RETURNING pg_backend_pid()", [text])
        return f"{os.getpid()} {cursor.fetchone()[0]} {text}"

    @app.get("/lent")
    def lent() -> Any:
        return str(len(inside.in_use(db.pools["default"])))

    @app.get("/stream")
    def stream() -> Any:
        write("stream")

        def rows() -> Iterator[str]:
            while True:
                db.connection.cursor().execute("SELECT 1")
                yield "row\n" * 1000

        return Response(stream_with_context(rows()))

    @app.get("/wait/<where>")
    def wait(where: str) -> Any:
        write(f"before a wait in {where}")
        if where == "sql":
            db.connection.cursor().execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        while where != "sql" and not os.path.exists(os.environ["SERVED_GO"]):
            if where == "python":  # the other one is busy: in gevent nobody else gets a turn
                time.sleep(0.005)
        write(f"after a wait in {where}")
        return "waited"

    if "SERVED_USES_AT_ONCE" in os.environ:
        with app.app_context():
            db.connection.cursor().execute("SELECT 1")

    return app
