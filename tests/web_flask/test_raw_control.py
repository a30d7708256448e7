"""After a COMMIT or ROLLBACK as SQL a request's work is still kept or undone as a whole."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import pytest
from flask import abort

from tests.web_flask.test_drivers import Shop, shop

__all__ = ["shop"]


def run(shop: Shop, sql: str) -> None:
    with closing(shop.db.connection.cursor()) as cursor:
        cursor.execute(sql)


@pytest.mark.parametrize(("end", "kept"), [("ROLLBACK", []), ("COMMIT", ["before"])])
def test_an_abort_undoes_what_was_written_after_a_raw_end(
    end: str, kept: list[str], shop: Shop
) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("before")
        run(shop, end)
        shop.write("after")
        abort(400)

    assert shop.post("/") == 400
    assert shop.look() == kept


def test_what_was_written_after_a_raw_end_is_committed_with_the_request(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("before")
        run(shop, "ROLLBACK")
        shop.write("after")
        assert shop.look() == []
        return "done"

    assert shop.post("/") == 200
    assert shop.look() == ["after"]


def test_a_block_after_a_raw_end_is_one_that_can_be_undone(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("before")
        run(shop, "ROLLBACK")
        with shop.db.transaction():
            shop.write("kept")
        with suppress(LookupError), shop.db.transaction():
            shop.write("undone")
            raise LookupError
        return "done"

    assert shop.post("/") == 200
    assert shop.look() == ["kept"]


def test_a_savepoint_of_the_apps_own_serves_after_a_raw_end(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("before")
        run(shop, "ROLLBACK")
        shop.write("kept")
        run(shop, "SAVEPOINT mine")
        shop.write("undone")
        run(shop, "ROLLBACK TO SAVEPOINT mine")
        return "done"

    assert shop.post("/") == 200
    assert shop.look() == ["kept"]
