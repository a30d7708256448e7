"""Flask packages that pass, with nothing to set: no mechanism of the pool's is in play."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.ecosystem.promises import Database, by_test_client, hold

pytestmark = pytest.mark.package(
    "Flask-Login", "Flask-Admin", "Flask-Caching", "flask-smorest", to_set="nothing"
)


def test_a_site_with_all_of_them_keeps_every_promise(field: Database) -> None:
    from flask_admin import Admin
    from flask_caching import Cache
    from flask_login import LoginManager, UserMixin, current_user, login_user
    from flask_smorest import Api

    from tests.ecosystem.flask_site import create_app

    app: Flask = create_app(field.url)
    app.config.update(
        SECRET_KEY="only for tests",
        CACHE_TYPE="SimpleCache",
        API_TITLE="field",
        API_VERSION="1",
        OPENAPI_VERSION="3.0.2",
    )
    db = app.extensions["field_db"]
    cache, login = Cache(app), LoginManager(app)
    Api(app)
    Admin(app, name="field")

    class User(UserMixin):  # type: ignore[misc]
        def __init__(self, number: str) -> None:
            self.id = number

    @login.user_loader  # type: ignore[untyped-decorator]
    def load(number: str) -> User:
        with db.connection.cursor() as cursor:
            cursor.execute("SELECT %s", (number,))
            return User(cursor.fetchone()[0])

    @app.post("/login")
    def log_in() -> str:
        login_user(load("7"))
        return "in"

    @app.get("/me")
    @cache.cached(timeout=60)  # type: ignore[untyped-decorator]
    def me() -> str:
        return str(current_user.id)

    ask = by_test_client(app.test_client())
    hold(ask, field)
    assert ask("POST", "/login") == (200, "in")
    assert [ask("GET", "/me") for _ in range(2)] == [(200, "7")] * 2
    assert ask("GET", "/admin/")[0] == 200
