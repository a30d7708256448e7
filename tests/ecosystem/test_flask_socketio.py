"""Flask-SocketIO: event handlers run in a request context without a response."""

from __future__ import annotations

import pytest
from flask import Flask

from dbpool_flask import DBPool
from tests.ecosystem.promises import Database
from tests.support.waiting import wait_until

pytestmark = pytest.mark.package(
    "Flask-SocketIO", to_set="`with db.transaction():` in handlers that write"
)


def test_handlers_commit_their_blocks_and_hold_no_connection_afterwards(field: Database) -> None:
    from flask_socketio import SocketIO

    app = Flask(__name__)
    app.config.update(DBPOOL_URL=field.url, DBPOOL_OPTIONS={"max_size": 2, "timeout": 5.0})
    db = DBPool(app)
    socketio = SocketIO(app, async_mode="threading")

    @socketio.on("add")  # type: ignore[untyped-decorator]
    def add(n: int) -> int:
        with db.transaction(), db.connection.cursor() as cursor:
            cursor.execute("INSERT INTO field_row VALUES (%s)", (n,))
        return n

    clients = [socketio.test_client(app) for _ in range(4)]
    for n, client in enumerate(clients):
        assert client.emit("add", n, callback=True) == n
    assert int(field.sql("SELECT count(*) FROM field_row")) == 4
    with app.app_context():
        pool = db.pools["default"]
    wait_until(lambda: pool.get_stats()["pool_available"] == pool.get_stats()["pool_size"], 10)
