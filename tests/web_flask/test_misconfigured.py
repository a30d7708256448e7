"""A mistake in the configuration is a 500 at once, not a database that is busy or away."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import pytest
from flask import Flask

from dbpool import Misconfigured
from dbpool_flask import DBPool
from tests.web_flask.conftest import DRIVER, Database, MakeSite, Site, pg

LONG = 60.0  # seconds; no request waits for as long as that


def failing(*_: Any) -> Any:
    raise KeyError("the vault is sealed")


MISTAKES: dict[str, dict[str, Any]] = {
    "a URL callable that raises": {"url": failing},
    "a URL callable that returns none": {"url": lambda: None},
    "a configure that raises": {"configure": failing},
    "kwargs that raise": {"kwargs": failing},
    "a value that libpq refuses": {"kwargs": {"sslmode": "requier"}},
    "an option that is found late": {"kwargs": lambda: {"foo": 1}},
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_request_is_told_at_once_and_not_to_come_again(
    mistake: dict[str, Any],
    database: Database,
    make_site: MakeSite,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {"timeout": LONG, **mistake}
    site = make_site(DBPOOL_URL=options.pop("url", database.url), DBPOOL_OPTIONS=options)
    errors: list[BaseException] = []

    @site.app.get("/")
    def view() -> str:
        try:
            site.write("never")
        except pg.OperationalError as error:
            errors.append(error)
            raise
        return "ok"

    for _ in range(3):
        answer = site.client().get("/")
        assert (answer.status_code, "Retry-After" in answer.headers) == (500, False)
    assert [type(error).__name__ for error in errors] == [Misconfigured.__name__] * 3
    of_pool = [each for each in caplog.records if each.name == "dbpool.pool"]
    assert len(of_pool) == 1
    own = isinstance(errors[0].__cause__, KeyError)
    assert ("in failing" in logging.Formatter().format(of_pool[0])) is own


def test_an_option_that_no_driver_has_is_refused_at_the_start(database: Database) -> None:
    for options, named in (
        ({"kwargs": {"foo": 1}}, "'foo'"),
        ({"connection_class": object}, "'connection_class': here it is part of kwargs"),
        ({"configure": lambda: None}, "configure"),
    ):
        app = Flask("refused")
        app.config.update(DBPOOL_URL=database.url, DBPOOL_OPTIONS={"driver": DRIVER, **options})
        with pytest.raises((TypeError, ValueError), match=f"^DBPOOL_.*{named}"):
            DBPool(app)


@pytest.fixture
def committing(make_site: MakeSite) -> Site:
    return make_site(DBPOOL_OPTIONS={"kwargs": {"autocommit": True}})


def test_with_autocommit_in_kwargs_each_statement_commits_by_itself(committing: Site) -> None:
    @committing.app.get("/<int:status>")
    def view(status: int) -> Any:
        committing.write(f"{status}")
        return "done", status

    for status in (200, 500):
        committing.client().get(f"/{status}")
    assert committing.database.notes() == ["200", "500"]


def test_with_autocommit_in_kwargs_a_block_is_a_transaction(committing: Site) -> None:
    with committing.app.app_context():
        with suppress(KeyError), committing.db.transaction():
            committing.write("undone")
            raise KeyError
        with committing.db.transaction():
            committing.write("kept")
    assert committing.database.notes() == ["kept"]
