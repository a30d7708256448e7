"""The promises on each driver: psycopg2, psycopg 3 (where it can be imported) and sqlite3."""

from __future__ import annotations

import asyncio
import importlib.util
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from flask import Flask, Response, abort, stream_with_context

from dbpool import ConnectionPool, TransactionAborted
from dbpool_flask import ConnectionReleased, DBPool
from tests.web_flask.conftest import Database

needs_psycopg = pytest.mark.skipif(
    importlib.util.find_spec("psycopg") is None,
    reason="psycopg 3 has an environment of its own",
)


@dataclass
class Shop:
    """An app, and a look at its notes past its pool."""

    driver: str
    app: Flask
    db: DBPool
    look: Callable[[], list[str]]
    database_error: type[Exception]

    def write(self, text: str) -> None:
        with closing(self.db.connection.cursor()) as cursor:
            cursor.execute(f"INSERT INTO note (text) VALUES ('{text}')")

    def violate(self) -> None:
        with closing(self.db.connection.cursor()) as cursor:
            cursor.execute("INSERT INTO child VALUES (1)")

    def fail(self) -> None:
        with closing(self.db.connection.cursor()) as cursor:
            cursor.execute("SELECT * FROM missing")

    @property
    def pool(self) -> ConnectionPool:
        with self.app.app_context():
            return self.db.pools["default"]

    def post(self, path: str) -> int:
        return self.app.test_client().post(path).status_code


PSYCOPG = pytest.param("psycopg", marks=needs_psycopg)


@pytest.fixture(params=["psycopg2", PSYCOPG, "sqlite3"])
def shop(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Iterator[Shop]:
    app = Flask("drivers")
    look = database.notes
    options: dict[str, Any] = {"max_size": 2}
    if request.param == "sqlite3":
        file = tmp_path / "notes.db"
        with closing(sqlite3.connect(file)) as setup:
            setup.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
            setup.execute("CREATE TABLE parent (id INT PRIMARY KEY)")
            setup.execute(
                "CREATE TABLE child (parent INT REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
            )
        options["configure"] = lambda conn: conn.execute("PRAGMA foreign_keys = 1")
        app.config["DBPOOL_URL"] = f"sqlite:///{file}"

        def look() -> list[str]:
            with closing(sqlite3.connect(file)) as connection:
                return [text for (text,) in connection.execute("SELECT text FROM note")]

    else:
        app.config["DBPOOL_URL"] = database.url
        options["driver"] = request.param
    app.config["DBPOOL_OPTIONS"] = options
    db = DBPool(app)
    errors = {"psycopg2": psycopg2.Error, "sqlite3": sqlite3.Error}
    if request.param == "psycopg":
        import psycopg

        errors["psycopg"] = psycopg.Error
    shop = Shop(request.param, app, db, look, errors[request.param])
    assert shop.pool.driver.name == request.param
    yield shop
    assert len(shop.pool._in_use) == 0
    shop.pool._audit()
    shop.pool.close()


def test_the_status_decides(shop: Shop) -> None:
    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        shop.write(str(status))
        if status == 404:
            abort(404)
        return "", status

    assert [shop.post(f"/{status}") for status in (200, 404, 302, 500)] == [200, 404, 302, 500]
    assert shop.look() == ["200", "302"]


def test_a_failing_commit_is_told(shop: Shop) -> None:
    @shop.app.post("/<kind>")
    def view(kind: str) -> Any:
        shop.write("undone")
        shop.violate()
        return Response(stream_with_context(iter(["row"]))) if kind == "stream" else "ok"

    for _ in range(3):
        assert shop.post("/plain") == 500
        assert shop.post("/stream") == 500
    assert shop.look() == []


def test_a_swallowed_error_is_never_a_silent_loss(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("first")
        with pytest.raises(shop.database_error):
            shop.fail()
        return "ok"

    # SQLite's transactions survive a failed statement, so there nothing is lost.
    lives = shop.driver == "sqlite3"
    assert shop.post("/") == (200 if lives else 500)
    assert shop.look() == (["first"] if lives else [])


def test_blocks_nest(shop: Shop) -> None:
    def blocks() -> None:
        with shop.db.transaction():
            shop.write("one")
            with pytest.raises(shop.database_error), shop.db.transaction():  # noqa: PT012
                shop.write("undone")
                shop.fail()
            with shop.db.transaction():
                shop.write("two")

    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        blocks()
        shop.write("three")
        return "", status

    assert shop.post("/409") == 409
    assert shop.look() == []
    assert shop.post("/200") == 200
    assert shop.look() == ["one", "two", "three"]
    with shop.app.app_context():
        blocks()
        assert len(shop.look()) == 5
        with pytest.raises(KeyError), shop.db.transaction():  # noqa: PT012
            shop.write("undone")
            raise KeyError
        shop.write("undone")
    assert len(shop.look()) == 5


def test_the_modes_of_views(shop: Shop) -> None:
    @shop.app.post("/autocommit")
    @shop.db.autocommit
    def autocommit() -> Any:
        shop.write("at once")
        with pytest.raises(shop.database_error):
            shop.fail()
        with pytest.raises(KeyError), shop.db.transaction():  # noqa: PT012
            shop.write("undone")
            raise KeyError
        with shop.db.transaction():
            shop.write("block")
        return "no", 409

    @shop.app.post("/manual")
    @shop.db.manual
    def manual() -> Any:
        shop.write("manual")
        shop.db.commit()
        shop.write("undone")
        return "ok"

    @shop.app.post("/read-only")
    @shop.db.read_only
    def read_only() -> Any:
        with pytest.raises(shop.database_error):
            shop.write("lost")
        return "no", 403

    @shop.app.post("/ordinary")
    def ordinary() -> Any:
        shop.write("ordinary")
        return "no" if shop.db.doom() else "ok"  # type: ignore[func-returns-value]

    for _ in range(2):
        assert shop.post("/autocommit") == 409
        assert shop.post("/manual") == 200
        assert shop.post("/read-only") == 403
        assert shop.post("/ordinary") == 200
    assert shop.look() == ["at once", "block", "manual"] * 2
    assert shop.pool.get_stats()["connections_num"] == 1


def test_a_stream_reads_on_a_fresh_connection_and_cannot_write(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("view")
        old = shop.db.connection.cursor()

        def rows() -> Iterator[str]:
            with pytest.raises(ConnectionReleased):
                old.execute("SELECT 1")
            with closing(shop.db.connection.cursor()) as cursor:
                cursor.execute("SELECT text FROM note")
                yield from (text for (text,) in cursor)
            with pytest.raises(shop.database_error):
                shop.write("lost")
            shop.db.rollback()
            with shop.db.transaction():
                shop.write("stream")

        return Response(stream_with_context(rows()))

    assert shop.app.test_client().post("/").text == "view"
    assert shop.look() == ["view", "stream"]
    assert shop.app.test_client().post("/").text == "viewstreamview"


def test_an_async_view_uses_it_from_another_thread(shop: Shop) -> None:
    @shop.app.before_request
    def before() -> None:
        shop.write("before")

    @shop.app.post("/")
    async def view() -> Any:
        shop.write("view")
        await asyncio.sleep(0)
        return "ok"

    assert shop.post("/") == 200
    assert shop.look() == ["before", "view"]


@pytest.mark.parametrize("shop", [PSYCOPG, "sqlite3"], indirect=True)
def test_what_the_driver_offers_on_the_connection_itself_is_fenced_too(shop: Shop) -> None:
    with shop.app.app_context():
        cursor = shop.db.connection.execute("SELECT 1")
        assert tuple(cursor.fetchone()) == (1,)
        assert cursor.execute("SELECT 2") is cursor
        assert cursor.connection is shop.db.connection
        kept = shop.db.connection.execute
    for use in (cursor.fetchone, lambda: kept("SELECT 1"), lambda: list(cursor)):
        with pytest.raises(ConnectionReleased):
            use()


@pytest.mark.parametrize("shop", [PSYCOPG], indirect=True)
def test_psycopgs_own_transaction_blocks_are_seen_by_the_end(shop: Shop) -> None:
    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        shop.write("before")
        with shop.db.connection.transaction():
            shop.write("block")
        return "", status

    assert shop.post("/409") == 409
    assert shop.post("/200") == 200
    assert shop.look() == ["before", "block"]


def test_isolation_undoes_it_all_and_finds_deferred_violations(shop: Shop) -> None:
    @shop.app.post("/ok")
    def ok() -> Any:
        shop.write("kept")
        return "ok"

    @shop.app.post("/violates")
    def violates() -> Any:
        shop.write("undone")
        shop.violate()
        return "ok"

    @shop.app.post("/reads")
    @shop.db.read_only
    def reads() -> Any:
        with pytest.raises(shop.database_error):
            shop.write("lost")
        return "no", 403

    with shop.db.test_isolation(shop.app):
        for _ in range(2):
            assert shop.post("/ok") == 200
            assert shop.post("/violates") == 500
            assert shop.post("/reads") == 403
        with shop.app.app_context(), closing(shop.db.connection.cursor()) as cursor:
            cursor.execute("SELECT text FROM note")
            assert [text for (text,) in cursor] == ["kept"] * 2
    assert shop.look() == []
    assert shop.post("/ok") == 200
    assert shop.look() == ["kept"]


@pytest.mark.parametrize("shop", ["psycopg2", PSYCOPG], indirect=True)
def test_a_commit_that_could_only_roll_back_is_refused(shop: Shop) -> None:
    with shop.app.app_context():
        with pytest.raises(shop.database_error):
            shop.fail()
        with pytest.raises(TransactionAborted) as caught:
            shop.db.commit()
        assert isinstance(caught.value, shop.pool.driver.OperationalError)
