"""`/healthz/db` in front of a Flask app that would answer a load balancer itself."""

from __future__ import annotations

import pytest
from flask import Flask

from dbpool_flask import DBPool
from tests.health import golden
from tests.health.asking import by_wsgi, own
from tests.health.golden import PATIENT
from tests.health.sites.flask_site import make_site
from tests.health.situations import place, settled
from tests.support.servers import Postgres


@pytest.mark.parametrize("situation", golden.SITUATIONS)
def test_every_golden_exchange(situation: str, postgres: Postgres) -> None:
    with place(situation, postgres) as url:
        app, pool = make_site(url)
        with pool, settled(situation, pool):
            client = app.test_client()
            for exchange in golden.EXCHANGES:
                if exchange.situation != situation:
                    continue
                asked = exchange.request
                assert by_wsgi(app, asked) == exchange.reply, exchange.name
                if asked.host is not None:  # the test client always sends one
                    answer = client.open(
                        f"{asked.path}?{asked.query}",
                        method=asked.method,
                        headers=asked.headers,
                    )
                    reply = own(answer.status_code, answer.headers.items(), answer.data)
                    assert reply == exchange.reply, exchange.name


def test_the_site_would_answer_a_load_balancer_itself(postgres: Postgres) -> None:
    app, pool = make_site(postgres.url())
    with pool:
        client = app.test_client()
        assert client.get("/", headers={"Host": golden.HOST}).status_code == 301
        secure = f"https://{golden.HOST}"
        assert client.get("/", base_url=secure).status_code == 401
        assert client.get("/", base_url=secure, auth=("a", "b")).text == "home"
        if "TRUSTED_HOSTS" in Flask.default_config:  # from Flask 3.1 on
            assert client.get("/", base_url="https://10.0.0.7", auth=("a", "b")).status_code == 400


def test_the_path_is_the_apps_own_where_the_check_is_off_or_elsewhere(postgres: Postgres) -> None:
    for path, elsewhere in ((None, "/healthz/db"), ("/up", "/healthz/db"), ("/up", "/upper")):
        app = Flask(__name__)
        app.config.update(DBPOOL_URL=postgres.url(), DBPOOL_HEALTH_PATH=path, **PATIENT)
        db = DBPool(app)
        app.add_url_rule(elsewhere, view_func=lambda: "the app's own")
        with app.app_context(), db.pools["default"]:
            assert app.test_client().get(elsewhere).text == "the app's own"
            assert path is None or app.test_client().get(path).status_code == 200


def test_a_pool_is_found_by_any_name_and_other_paths_by_any_bytes(postgres: Postgres) -> None:
    app = Flask(__name__)
    app.config.update(DBPOOL_DATABASES={"größe": postgres.url()}, **PATIENT)
    db = DBPool(app)
    with app.app_context():
        pool = db.pools["größe"]
    with pool:
        raw = "/healthz/db/größe".encode().decode("latin-1")  # as WSGI hands it over
        assert by_wsgi(app, golden.Request(path=raw)).status == 200
        for stranger in ("/healthz/db/\xff", "/healthz/db/\u20ac"):
            assert by_wsgi(app, golden.Request(path=stranger)).status == 404
        assert by_wsgi(app, golden.Request(path="/\xff")).status == 404
