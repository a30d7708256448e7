"""docs/flask.md: its tutorial leads to an app that works, its other blocks do what it says."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from flask import Flask, Response, abort, redirect, request

import dbpool_flask
from dbpool import PoolTimeout
from dbpool_flask import DBPool, _config
from tests.support import inside
from tests.support.documents import Document
from tests.support.servers import Postgres
from tests.support.tutorial import Tutorial

ROOT = Path(__file__).resolve().parents[1]
PAGE = Document(ROOT / "docs" / "flask.md")
TUTORIAL = PAGE.section("From an empty folder to a tested app behind gunicorn")

# Every other block, by a text in it, and the test that runs it.
TESTED = {
    "original_exception": "test_a_failed_commit_is_answered_by_the_handler_for_500",
    "def login": "test_what_a_view_commits_survives_its_error_answer",
    "def refused": "test_a_handler_that_redirects_commits_its_own_row_alone",
    "def register": "test_a_form_that_catches_an_error_goes_on",
    "def import_rows": "test_a_block_that_fails_leaves_the_others",
    '"logs": {"url"': "test_databases_are_used_by_their_names",
    "def visit": "test_databases_are_used_by_their_names",
    "DBPOOL_REPLICA": "test_the_replica_is_configured_as_shown",
    "keep_open": "test_a_stream_may_keep_its_cursor",
    "def clean_up": "test_a_function_outside_requests_commits_its_block",
    "def busy": "test_a_full_pool_is_answered_as_shown",
}


def test_every_block_is_run_by_a_test() -> None:
    others = [block for block in PAGE.blocks if block not in TUTORIAL]
    assert len(others) == len(TESTED)
    for text, test in TESTED.items():
        assert PAGE.block(text)
        assert test in globals()


def test_links_lead_somewhere() -> None:
    assert PAGE.broken_links() == []


def test_every_key_and_every_public_name_is_explained() -> None:
    for key in _config.KEYS:
        assert f"`{key}`" in PAGE.text, key
    for name in dir(DBPool):
        if not name.startswith("_"):
            assert f"db.{name}" in PAGE.text or f".{name}(" in PAGE.text, name
    for name in ("DBPool", "ConnectionReleased"):
        assert name in dbpool_flask.__all__


def test_the_addresses_in_its_text_work(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    (query,) = re.findall(r'"postgresql:///shop(\?[^"]*)"', PAGE.text)
    assert "`FLASK_DBPOOL_OPTIONS__max_size=8`" in PAGE.text
    monkeypatch.setenv("FLASK_DBPOOL_OPTIONS__max_size", "8")
    url = postgres.url()
    monkeypatch.setenv("FLASK_DBPOOL_URL", url + query.replace("?", "&" if "?" in url else "?"))
    app = Flask("page")
    app.config.from_prefixed_env()
    names = {"app": app, "db": DBPool(app)}
    with app.app_context(), names["db"].connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("20s",)
        assert names["db"].pools["default"].max_size == 8
    close(names)


# -- the tutorial


@pytest.fixture(scope="module")
def guestbook(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tutorial]:
    """The tutorial, followed to its end; its server runs."""
    own, tests = f"guestbook_{os.getpid()}", f"guestbook_test_{os.getpid()}"
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name in (own, tests):
                cursor.execute(f"CREATE DATABASE {name}")
            reader = Tutorial(
                tmp_path_factory.mktemp("guestbook"),
                {
                    "postgresql:///guestbook_test": postgres.url(dbname=tests),
                    "postgresql:///guestbook": postgres.url(dbname=own),
                },
            )
            try:
                reader.follow(TUTORIAL)
                yield reader
            finally:
                reader.stop()
                for name in (own, tests):
                    cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_the_tutorial_ends_with_an_app_that_serves(guestbook: Tutorial) -> None:
    first = [command.split()[0] for command in guestbook.commands]
    assert first == [
        "mkdir", "cd", "python3", ".", "pip", "createdb", "export", "flask", "flask", "createdb",
        "python", "gunicorn", "curl", "curl", "curl", "curl", "curl",
    ]  # fmt: skip


def test_the_tutorials_tests_test_its_app(guestbook: Tutorial) -> None:
    file = guestbook.folder / "guestbook.py"
    code = file.read_text()
    for right, wrong, failed in (
        ("abort(413)", "return {}, 200", "1 failed, 1 passed"),
        ("JOIN guest ON", "JOIN guest ON NOT", "1 failed, 1 passed"),
    ):
        file.write_text(code.replace(right, wrong))
        try:
            assert failed in guestbook.run("python", "-m", "pytest", "-q", fails=True)
        finally:
            file.write_text(code)
    assert "2 passed" in guestbook.run("python", "-m", "pytest", "-q")


# -- the other blocks


@pytest.fixture
def page(postgres: Postgres) -> Iterator[dict[str, Any]]:
    """What blocks find around them: an app, its database, and the names that they use."""
    app = Flask("page")
    app.config["DBPOOL_URL"] = postgres.url()
    names: dict[str, Any] = {
        "__name__": "page", "app": app, "db": DBPool(app), "abort": abort, "request": request,
        "redirect": redirect, "Response": Response, "psycopg2": psycopg2,
    }  # fmt: skip
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE attempt (name text NOT NULL)")
            names["look"] = cursor
            yield names
            cursor.execute("DROP TABLE attempt")
    close(names)


def close(names: dict[str, Any]) -> None:
    with names["app"].app_context():
        for pool in names["db"].pools.values():
            assert len(inside.in_use(pool)) == 0
            pool.close()


def run(names: dict[str, Any], *texts: str) -> Any:
    """Run blocks in one namespace; return a client of their app."""
    for text in texts:
        exec(PAGE.block(text), names)
    return names["app"].test_client()


def attempts(names: dict[str, Any]) -> list[str]:
    names["look"].execute("SELECT name FROM attempt ORDER BY name")
    return [name for (name,) in names["look"]]


def test_a_failed_commit_is_answered_by_the_handler_for_500(page: dict[str, Any]) -> None:
    page["look"].execute(
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child"
        " (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    )
    asked = []

    @page["app"].errorhandler(psycopg2.Error)
    def never(error: psycopg2.Error) -> Any:
        asked.append(error)
        return "", 500

    @page["app"].post("/violates")
    def violates() -> Any:
        page["db"].connection.cursor().execute("INSERT INTO child VALUES (1)")
        return "ok"

    @page["app"].post("/fails")
    def fails() -> Any:
        raise KeyError

    client = run(page, "original_exception")
    try:
        answer = client.post("/violates")
        assert (answer.status_code, answer.json) == (
            409, {"error": "somebody else has deleted it"}
        )  # fmt: skip
        assert client.post("/fails").json == {"error": "internal"}
        assert asked == []
    finally:
        page["look"].execute("DROP TABLE child, parent")


def test_what_a_view_commits_survives_its_error_answer(page: dict[str, Any]) -> None:
    client = run(page, "def login")
    assert client.post("/login", data={"name": "Eve"}).status_code == 403
    assert attempts(page) == ["Eve"]


def test_a_handler_that_redirects_commits_its_own_row_alone(page: dict[str, Any]) -> None:
    client = run(page, "def refused")

    @page["app"].post("/refuses")
    def refuses() -> Any:
        page["db"].connection.cursor().execute("INSERT INTO attempt VALUES ('half done')")
        raise page["Refused"]

    assert client.post("/refuses").status_code in (302, 303)
    assert attempts(page) == ["refused"]


def test_a_form_that_catches_an_error_goes_on(page: dict[str, Any]) -> None:
    page["look"].execute("CREATE TABLE guest (name text UNIQUE)")
    try:
        client = run(page, "def register")
        assert client.post("/register", data={"name": "Ada"}).status_code in (302, 303)
        answer = client.post("/register", data={"name": "Ada"})
        assert (answer.status_code, answer.text) == (200, "that name is taken")
    finally:
        page["look"].execute("DROP TABLE guest")


def test_a_block_that_fails_leaves_the_others(
    page: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = run(page, "def import_rows")
    with caplog.at_level(logging.INFO):
        page["app"].logger.setLevel(logging.INFO)
        answer = client.post("/import", json=["Ada", None, "Grace"])
    assert answer.json == {"refused": 1}
    assert attempts(page) == ["Ada", "Grace"]
    assert "imported" in caplog.text


def test_databases_are_used_by_their_names(postgres: Postgres) -> None:
    app = Flask("page")
    names = {"app": app, "postgres": postgres}
    code = PAGE.block('"logs": {"url"')
    for shown in ("postgresql://app@db/shop", "postgresql://app@logs/logs"):
        assert shown in code
        code = code.replace(shown, postgres.url())
    exec(code, names)
    names["db"] = DBPool(app)
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE visit (path text)")
            client = run(names, "def visit")
            assert client.post("/visit").json == {"ok": True}
            assert client.get("/visits").json == {"visits": 1}
            cursor.execute("DROP TABLE visit")
    with app.app_context():
        pools = names["db"].pools
        assert {name: pool.max_size for name, pool in pools.items()} == {"default": 8, "logs": 2}
        assert pools["logs"].get_stats()["requests_num"] == 2
        assert pools["default"].get_stats()["requests_num"] == 0
    close(names)


def test_the_replica_is_configured_as_shown(postgres: Postgres) -> None:
    app = Flask("page")
    names: dict[str, Any] = {"app": app}
    code = PAGE.block("DBPOOL_REPLICA")
    for shown in ("postgresql://app@primary/shop", "postgresql://app@standby/shop"):
        assert shown in code
        code = code.replace(shown, postgres.url())
    exec(code, names)
    names["db"] = DBPool(app)

    @app.get("/")
    @names["db"].read_only  # type: ignore[untyped-decorator]
    def where() -> Any:
        return names["db"].connection.info.dsn_parameters["fallback_application_name"]

    assert app.test_client().get("/").text == "dbpool:replica"
    close(names)


def test_a_stream_may_keep_its_cursor(page: dict[str, Any]) -> None:
    page["look"].execute("INSERT INTO attempt VALUES ('Ada'), ('Eve')")
    client = run(page, "keep_open")
    assert client.get("/export").text == "Ada\nEve\n"


def test_a_function_outside_requests_commits_its_block(page: dict[str, Any]) -> None:
    page["look"].execute("INSERT INTO attempt VALUES ('Ada')")
    run(page, "def clean_up")
    page["clean_up"]()
    assert attempts(page) == []


def test_a_full_pool_is_answered_as_shown(page: dict[str, Any]) -> None:
    @page["app"].get("/")
    def view() -> Any:
        raise PoolTimeout("full")

    answer = run(page, "def busy").get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
