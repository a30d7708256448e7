"""docs/flask-migration.md: the apps before and after do what the page says of them."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from flask import Flask, request

from dbpool.options import OPTIONS
from dbpool_flask import DBPool, _config
from tests.support import inside
from tests.support.documents import Document
from tests.support.servers import Postgres

ROOT = Path(__file__).resolve().parents[1]
PAGE = Document(ROOT / "docs" / "flask-migration.md")

# By heading: what the apps before and after need, and the orders that there are with the former.
FIRST = "First: database errors that a view catches"
SECTIONS = {
    "From Flask-SQLAlchemy, for those who write SQL": ("flask_sqlalchemy", "psycopg2", ["Ada"]),
    "From psycopg2's pool, by hand": ("psycopg2", "psycopg2", ["Ada", "Eve"]),
    "From psycopg_pool": ("psycopg_pool", "psycopg", ["Ada"]),
}


def test_every_section_has_its_two_apps() -> None:
    assert [len(PAGE.section(heading)) for heading in SECTIONS] == [2] * len(SECTIONS)
    assert len(PAGE.blocks) == 2 * len(SECTIONS) + len(PAGE.section(FIRST))


def test_a_view_that_catches_a_database_error_is_written_as_shown_first(
    database: dict[str, str],
) -> None:
    assert PAGE.text.index(f"## {FIRST}") < min(PAGE.text.index(f"## {way}") for way in SECTIONS)
    app = Flask("page")
    app.config["DBPOOL_URL"] = database["postgresql+psycopg2://app@db/shop"]
    names: dict[str, Any] = {
        "__name__": "page", "app": app, "db": DBPool(app), "request": request,
        "psycopg2": psycopg2,
    }  # fmt: skip
    (block,) = PAGE.section(FIRST)
    exec(block.code, names)

    @app.post("/tutorial")
    def as_in_the_tutorial() -> str:
        try:
            names["db"].connection.cursor().execute("INSERT INTO orders VALUES ('Ada')")
        except psycopg2.IntegrityError:
            return "that name is taken"
        return "welcome"

    with app.app_context(), names["db"].transaction() as connection:
        connection.cursor().execute("ALTER TABLE orders ADD UNIQUE (customer)")
    client, ada = app.test_client(), {"customer": "Ada"}
    assert client.post("/register", data=ada).text == "welcome"
    assert client.post("/register", data=ada).text == "that name is taken"
    assert client.post("/tutorial").status_code == 500
    with app.app_context():
        names["db"].pools["default"].close()


def test_links_lead_somewhere() -> None:
    assert PAGE.broken_links() == []


def test_the_options_that_keep_their_names_are_there() -> None:
    (kept,) = re.findall(r"^(`min_size`.*?) keep their names", PAGE.text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", kept)) <= {*OPTIONS, *_config._OPTIONS}


def test_sql_is_written_as_the_table_says(database: dict[str, str]) -> None:
    for word in (
        "| `LIKE 'A%%'` where parameters",
        ", `:` |",
        "| `= ANY(%(names)s)`, given a list |",
    ):
        assert word in PAGE.text
    app = Flask("page")
    app.config["DBPOOL_URL"] = database["postgresql+psycopg2://app@db/shop"]
    db = DBPool(app)
    with app.app_context(), db.connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES ('Ada'), ('Bob'), ('Alan')")
        cursor.execute(
            "SELECT customer::text FROM orders"
            " WHERE customer LIKE 'A%%' AND customer = ANY(%(names)s)",
            {"names": ["Ada", "Bob"]},
        )
        assert cursor.fetchall() == [("Ada",)]
        db.pools["default"].close()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[dict[str, str]]:
    """A database for the app; its URL for each driver."""
    name = f"migration_{os.getpid()}"
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        url = postgres.url(dbname=name)
        with closing(psycopg2.connect(url)) as entered, entered, entered.cursor() as cursor:
            cursor.execute("CREATE TABLE orders (customer text)")
        yield {
            f"{scheme}app@db/shop": scheme + url.removeprefix("postgresql://")
            for scheme in ("postgresql://", "postgresql+psycopg2://", "postgresql+psycopg://")
        }
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is there in the environment of make test-psycopg")


def made(code: str, database: dict[str, str]) -> dict[str, Any]:
    """Run a block; return what it has defined."""
    for shown, here in database.items():
        code = code.replace(f'"{shown}"', repr(here))
    assert "app@db" not in code
    names: dict[str, Any] = {"__name__": "shop"}
    exec(code, names)
    return names


def orders(names: dict[str, Any]) -> list[str]:
    """Order as Ada and as Eve, who is refused; return what is there afterwards."""
    client = names["app"].test_client()
    assert client.post("/orders", data={"customer": "Ada"}).status_code == 201
    assert client.post("/orders", data={"customer": "Eve"}).status_code == 403
    found: list[str] = client.get("/orders").json
    return found


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_app_before(heading: str, database: dict[str, str]) -> None:
    module, _, expected = SECTIONS[heading]
    needs(module)
    names = made(PAGE.section(heading)[0].code, database)
    try:
        assert orders(names) == expected
    finally:
        if module == "psycopg2":
            names["pool"].closeall()
        elif module == "psycopg_pool":
            names["pool"].close()
        else:
            with names["app"].app_context():
                names["db"].engine.dispose()


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_app_after(heading: str, database: dict[str, str]) -> None:
    needs(SECTIONS[heading][1])
    names = made(PAGE.section(heading)[1].code, database)
    try:
        assert orders(names) == ["Ada"]
    finally:
        with names["app"].app_context():
            (pool,) = names["db"].pools.values()
        assert (pool.max_size, pool.timeout) == (10, 10)
        assert len(inside.in_use(pool)) == 0
        pool.close()
