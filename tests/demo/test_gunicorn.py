"""Both shops under gunicorn, as gunicorn.conf.py has it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testproject.demo import servers
from testproject.demo.servers import SHOP, App, AppServer
from testproject.demo.witness import PoolEvents
from tests.demo.conftest import ShopDatabase
from tests.demo.shop_client import HttpClient, order
from tests.support.waiting import wait_until


@pytest.fixture
def server(app: App, shop_database: ShopDatabase, tmp_path: Path) -> Iterator[AppServer]:
    with AppServer(app, shop_database.variables, tmp_path) as started:
        started.wait_until_healthy()
        yield started


def test_a_shop_serves_orders_and_leaves_no_session_behind(
    server: AppServer, shop_database: ShopDatabase
) -> None:
    shop = HttpClient(server.port)
    orders, items, stock = shop_database.counts()

    placed = shop.post_order(order("first", (1, 2)))
    assert placed.status == 201
    assert shop_database.counts() == (orders + 1, items + 1, stock - 2)
    assert shop.post_order(order("first", (1, 2))).status == 409
    assert shop.post_order(order("second", (1, 1), (6, 50))).status == 409
    assert shop_database.counts() == (orders + 1, items + 1, stock - 2)
    assert shop.get("/orders/by-key/first").json == placed.json

    health = shop.get("/healthz/db")
    assert (health.status, health.text) == (200, '{"status":"pass"}\n')

    assert server.stop() == 0
    wait_until(lambda: shop_database.sessions() == 0, message="no session left")
    assert "Traceback" not in server.log_text()


def test_sessions_that_ended_while_idle_cost_no_request_an_error(
    server: AppServer, shop_database: ShopDatabase
) -> None:
    shop = HttpClient(server.port)
    for _ in range(20):
        assert shop.get("/products").status == 200
        shop_database.end_sessions()
        assert shop.get("/products").status == 200


def test_the_pools_write_down_what_they_open_and_close(server: AppServer) -> None:
    shop = HttpClient(server.port)
    for _ in range(10):
        assert shop.get("/products").status == 200
    before = PoolEvents.read(server.events)
    assert 1 <= before.opened <= servers.MOST_SESSIONS

    server.stop()
    lines = [
        json.loads(line)
        for file in server.events.iterdir()
        for line in file.read_text().splitlines()
    ]
    opened = [line for line in lines if line["event"] == "opened"]
    closed = [line for line in lines if line["event"] == "closed"]
    # A connection may be opened after `before` was read: for a request whose caller then got one
    # that came back sooner.
    assert before.opened <= len(opened) == len(closed) <= servers.MOST_SESSIONS
    assert all(1 <= line["open"] <= servers.MAX_SIZE for line in opened)


def test_the_demo_knows_the_limits_that_the_shops_have() -> None:
    conf = runpy.run_path(str(SHOP / "gunicorn.conf.py"))
    assert (conf["workers"], conf["threads"]) == (servers.WORKERS, 8)
    assert conf["worker_class"] == "gthread"
    settings = runpy.run_path(str(SHOP / "shop_django" / "settings.py"))
    assert settings["DATABASES"]["default"]["OPTIONS"]["pool"]["max_size"] == servers.MAX_SIZE
    in_flask = "import flask_app; print(flask_app.create_app().config['DBPOOL_OPTIONS'])"
    shown = subprocess.run(
        [sys.executable, "-c", in_flask],
        cwd=SHOP,
        env={**os.environ, "PYTHONPATH": str(servers.ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.strip() == str({"max_size": servers.MAX_SIZE})
