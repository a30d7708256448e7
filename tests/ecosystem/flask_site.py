"""A Flask site with a route for each promise; `promises.py` asks them. FIELD_URL says on what."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, abort

from dbpool.drivers import driver_of, wait_with_gevent
from dbpool_flask import DBPool

__all__ = ["create_app"]


def create_app(url: str | None = None, **options: Any) -> Flask:
    """Return the site; `options` are the pool's."""
    app = Flask(__name__)
    app.config["DBPOOL_URL"] = url or os.environ["FIELD_URL"]
    app.config["DBPOOL_OPTIONS"] = {"max_size": 2, "timeout": 20.0, **options}
    db = DBPool(app)
    app.extensions["field_db"] = db

    def one(sql: str, *parameters: Any) -> Any:
        with db.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchone()[0] if cursor.description else None

    @app.get("/up")
    def up() -> str:
        return "up"

    @app.get("/driver")
    def driver() -> str:
        with db.pools["default"].connection() as conn:
            return driver_of(conn).name

    @app.get("/proxied")
    def proxied() -> str:
        with db.pools["default"].connection() as conn:
            return str(hasattr(conn, "__wrapped__"))

    @app.get("/echo/<int:n>")
    def echo(n: int) -> str:
        return str(one("SELECT %s::int FROM pg_sleep(0.002)", n))

    @app.post("/rows/<int:n>")
    def add(n: int) -> tuple[str, int]:
        one("INSERT INTO field_row VALUES (%s)", n)
        return "added", 201

    @app.post("/refused/<int:n>")
    def refuse(n: int) -> tuple[str, int]:
        one("INSERT INTO field_row VALUES (%s)", n)
        abort(409)

    @app.post("/session")
    def change_session() -> str:
        one("SET search_path = pg_catalog")
        one("SELECT set_config('app.user', 'ada', false)")
        one("SELECT pg_advisory_lock(4711)")
        one("CREATE TEMP TABLE leftover (n int)")
        return "changed"

    @app.get("/session")
    def show_session() -> str:
        return str(one(STATE))

    @app.post("/broken")
    def broken() -> str:
        one("SELECT 1/0")
        return "never"

    return app


# Locks of this session alone: another worker's is clean only after its answer has left.
STATE = """SELECT concat_ws('|', current_setting('search_path'),
    coalesce(nullif(current_setting('app.user', true), ''), '-'),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
    coalesce(to_regclass('pg_temp.leftover')::text, '-'))"""


if os.environ.get("FIELD_GREEN"):
    wait_with_gevent()
if "FIELD_URL" in os.environ and os.environ.get("FIELD_APP") == "flask":
    app = create_app()
    if os.environ.get("FIELD_USED"):  # a query at import: in the master, where it preloads
        with app.test_client() as client:
            assert client.get("/echo/1").text == "1"
