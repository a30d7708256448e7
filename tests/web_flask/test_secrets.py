"""No error of the extension, and no frame of ours behind it, holds a password or token."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from dbpool_flask import DBPool
from tests.support.secrets import leaks
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
