"""No error of the extension, and no frame of ours behind it, holds a password or token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from dbpool import PoolError
from dbpool_flask import DBPool
from testproject.postgres import PostgresServer
from tests.support.secrets import leaks
from tests.support.servers import Postgres
from tests.support.sessions import role_with
from tests.web_flask.conftest import DRIVER

SECRET = "sEcReT!9x"
URL = f"postgresql://app:{SECRET}@127.0.0.1:1/shop"
MISTAKES: dict[str, dict[str, Any]] = {
    "a malformed URL": {"DBPOOL_URL": f"postgresql://app:{SECRET}@db:{SECRET}/shop"},
    "an unknown scheme": {"DBPOOL_URL": f"mysql://app:{SECRET}@db/shop"},
    "a URL that is none": {"DBPOOL_URL": URL.encode()},
    "a wrong option": {"DBPOOL_URL": URL, "DBPOOL_OPTIONS": {"max_size": -1}},
    "an unknown option": {"DBPOOL_URL": URL, "DBPOOL_OPTIONS": {"maxsize": 1}},
    "a wrong reset": {"DBPOOL_URL": URL, "DBPOOL_OPTIONS": {"reset": URL}},
    "a URL as an option's key": {"DBPOOL_URL": URL, "DBPOOL_OPTIONS": {URL: 1}},
    "a URL as a value": {"DBPOOL_URL": URL, "DBPOOL_OPTIONS": {"max_size": URL}},
    "a URL for options": {"DBPOOL_URL": URL, "DBPOOL_OPTIONS": URL},
    "a URL as key of databases": {"DBPOOL_DATABASES": {URL: {"max_size": 5}}},
    "a good URL as key of databases": {"DBPOOL_DATABASES": {URL: URL}},
    "a URL for databases": {"DBPOOL_DATABASES": URL},
    "one of two is wrong": {"DBPOOL_URL": URL, "DBPOOL_DATABASES": {"other": URL + "://"}},
    "two defaults": {"DBPOOL_URL": URL, "DBPOOL_DATABASES": {"default": URL}},
    "a URL for a replica": {"DBPOOL_URL": URL, "DBPOOL_REPLICA": URL},
    "a URL for the mode": {"DBPOOL_URL": URL, "DBPOOL_TRANSACTION": URL},
    "an unknown key": {"DBPOOL_URL": URL, f"DBPOOL_{URL}": 1},
    "a token for the detail": {"DBPOOL_URL": URL, "DBPOOL_HEALTH_DETAIL": SECRET * 2},
    "a token that is short": {"DBPOOL_URL": URL, "DBPOOL_HEALTH_TOKEN": SECRET},
    "a token no header has": {"DBPOOL_URL": URL, "DBPOOL_HEALTH_TOKEN": SECRET * 2 + "é"},
    "a number beside a token": {"DBPOOL_URL": URL, "DBPOOL_HEALTH_TTL": -1},
}


@pytest.mark.parametrize("config", MISTAKES.values(), ids=MISTAKES)
def test_a_refused_configuration_is_not_shown(config: dict[str, Any]) -> None:
    app = Flask("refused")
    app.config.update({"DBPOOL_HEALTH_TOKEN": SECRET * 2} | config)
    with pytest.raises((TypeError, ValueError)) as caught:
        DBPool(app)
    assert leaks(caught.value, SECRET) == []


def failing(*_: Any) -> Any:
    raise KeyError("no such thing")


RUNNING: dict[str, dict[str, Any]] = {
    "a dead port": {"DBPOOL_URL": URL},
    "a host that is not there": {"DBPOOL_URL": URL.replace("127.0.0.1", "no-such-host.invalid")},
    "a value that libpq refuses": {"DBPOOL_URL": URL + "?sslmode=requier"},
    "a secret as a value": {"DBPOOL_URL": URL, "kwargs": {"sslmode": SECRET}},
    "a callable that fails": {"DBPOOL_URL": failing},
    "a callable that returns a malformed one": {"DBPOOL_URL": lambda: URL + ":" + SECRET},
    "kwargs that come late": {"DBPOOL_URL": URL, "kwargs": lambda: {"foo": SECRET}},
    "kwargs that are none": {"DBPOOL_URL": URL, "kwargs": lambda: [SECRET]},
}


@pytest.mark.parametrize("config", RUNNING.values(), ids=RUNNING)
def test_a_view_without_a_connection_shows_nothing(config: dict[str, Any]) -> None:
    config = dict(config)
    options = {"driver": DRIVER, "timeout": 10, "down_wait": 0}
    if "kwargs" in config:
        options["kwargs"] = config.pop("kwargs")
    assert leaks(error_of_a_view(DBPOOL_OPTIONS=options, **config), SECRET) == []


def test_a_view_that_the_server_refuses_shows_nothing(scram_postgres: PostgresServer) -> None:
    url = scram_postgres.url(password=SECRET)
    error = error_of_a_view(DBPOOL_URL=url, DBPOOL_OPTIONS={"driver": DRIVER})
    assert type(error).__name__ == "ConnectFailed"
    assert leaks(error, SECRET) == []


def test_a_view_that_meets_a_full_pool_shows_nothing(postgres: Postgres) -> None:
    options = {"driver": DRIVER, "max_size": 1, "timeout": 0.05}
    url = postgres.url(user=role_with(postgres.dsn(), SECRET), password=SECRET)
    app = Flask("full")
    app.config.update(DBPOOL_URL=url, DBPOOL_OPTIONS=options, TESTING=True)
    db = DBPool(app)
    with app.app_context():
        _ = db.connection
        assert leaks(_caught(lambda: _in_a_view(app, db)), SECRET) == []


def error_of_a_view(**config: Any) -> BaseException:
    app = Flask("failing")
    app.config.update(TESTING=True, **config)
    return _caught(lambda: _in_a_view(app, DBPool(app)))


def _in_a_view(app: Flask, db: DBPool) -> None:
    app.add_url_rule("/", endpoint="view", view_func=lambda: str(db.connection))
    app.test_client().get("/")


def _caught(call: Callable[[], object]) -> BaseException:
    with pytest.raises(PoolError) as caught:
        call()
    return caught.value


def test_a_name_that_is_none_is_not_quoted() -> None:
    app = Flask("named")
    app.config.update(DBPOOL_URL=URL, DBPOOL_OPTIONS={"driver": DRIVER})
    db = DBPool(app)
    with app.app_context():
        for use in (
            lambda: db.get_connection(URL),
            lambda: db.using(URL).__enter__(),
            lambda: db.transaction(URL).__enter__(),
        ):
            with pytest.raises(LookupError) as caught:
                use()
            assert SECRET not in str(caught.value)
