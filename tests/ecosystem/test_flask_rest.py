"""Flask-RESTful and Flask-RESTX answer errors in their own `handle_user_exception`."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from flask import Flask

from dbpool_flask import DBPool
from tests.ecosystem.promises import Database, by_test_client

pytestmark = pytest.mark.package("Flask-RESTful", "flask-restx", to_set="nothing")


def site(name: str, field: Database) -> tuple[Flask, DBPool]:
    app = Flask(__name__)
    app.config["DBPOOL_URL"] = field.url
    app.config["DBPOOL_OPTIONS"] = {"max_size": 1, "timeout": 0.3}
    db = DBPool(app)
    module: Any = importlib.import_module(name)

    class Rows(module.Resource):  # type: ignore[misc, name-defined]
        def post(self, n: int) -> tuple[dict[str, int], int]:
            with db.connection.cursor() as cursor:
                cursor.execute("INSERT INTO field_row VALUES (%s)", (n,))
            return {"n": n}, 409 if n == 2 else 201

        @db.read_only
        def get(self, n: int) -> dict[str, int]:
            with db.connection.cursor() as cursor:
                cursor.execute("INSERT INTO field_row VALUES (%s)", (n,))
            return {"n": n}

    module.Api(app).add_resource(Rows, "/rows/<int:n>")
    return app, db


@pytest.mark.parametrize("name", ["flask_restful", "flask_restx"])
def test_a_resource_commits_and_rolls_back_by_its_status(field: Database, name: str) -> None:
    app, _ = site(name, field)
    ask = by_test_client(app.test_client())
    assert (ask("POST", "/rows/1")[0], field.rows(1)) == (201, 1)
    assert (ask("POST", "/rows/2")[0], field.rows(2)) == (409, 0)


@pytest.mark.parametrize("name", ["flask_restful", "flask_restx"])
def test_a_read_only_mark_on_a_method_of_a_resource_holds(field: Database, name: str) -> None:
    app, _ = site(name, field)
    assert by_test_client(app.test_client())("GET", "/rows/3")[0] == 500
    assert field.rows(3) == 0


@pytest.mark.parametrize("name", ["flask_restful", "flask_restx"])
def test_a_full_pool_is_a_503_with_retry_after(field: Database, name: str) -> None:
    app, db = site(name, field)
    with app.app_context():
        pool = db.pools["default"]
    with pool.connection():
        answer = app.test_client().post("/rows/4")
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
