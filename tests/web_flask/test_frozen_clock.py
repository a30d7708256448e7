"""Tests of an app's own that freeze the clock: its pools serve, meanwhile and after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import freezegun
import pytest
import time_machine

from tests.support.callers import PATIENCE
from tests.web_flask.conftest import MakeSite

WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "freezegun": lambda: freezegun.freeze_time("2020-01-01"),
    "freezegun, ticking": lambda: freezegun.freeze_time("2100-01-01", tick=True),
    "time-machine": lambda: time_machine.travel("2020-01-01 00:00+0000", tick=False),
    "time-machine, ticking": lambda: time_machine.travel("2100-01-01 00:00+0000"),
}


@pytest.mark.parametrize("way", WAYS)
def test_requests_under_a_frozen_clock_are_served_by_what_was_opened_once(
    way: str, make_site: MakeSite
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1})  # of which the health check may take one
    app, db = site.app, site.db

    @app.get("/write")
    def write() -> str:
        site.write("frozen")
        with db.connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return str(cursor.fetchone()[0])

    @app.get("/stream")
    def stream() -> Any:
        def rows() -> Any:
            with db.connection.cursor() as cursor:
                cursor.execute("SELECT generate_series(1, 3)")
                for (number,) in cursor:
                    yield str(number)

        return app.response_class(db.keep_open(rows(), seconds=PATIENCE))

    client = site.client()
    with WAYS[way]():
        session = client.get("/write").text
        assert client.get("/write").text == session
        assert client.get("/stream").text == "123"
        assert client.get("/healthz/db").status_code == 200
        with app.app_context(), db.transaction() as connection:
            connection.cursor().execute("SELECT 1")
        with db.test_isolation(app):
            assert client.get("/write").text == session
    assert client.get("/write").text == session
    assert site.pool.get_stats()["connections_num"] == 1
    assert site.database.notes() == ["frozen"] * 3
