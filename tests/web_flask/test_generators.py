"""Generators that are left early: GeneratorExit is no reason to throw a connection away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import Any

import pytest
from flask import Response, stream_with_context

from tests.web_flask.conftest import Site

TIMES = 5

Work = Callable[[Site], Iterator[int]]


def in_a_block(site: Site) -> Iterator[int]:
    with site.db.transaction():
        site.write("undone")
        yield 1
        yield 2


def in_nested_blocks(site: Site) -> Iterator[int]:
    with site.db.transaction(), site.db.transaction():
        site.write("undone")
        yield 1


def in_the_drivers_own_way(site: Site) -> Iterator[int]:
    with site.db.connection:
        site.write("undone")
        yield 1


def over_a_cursor(site: Site) -> Iterator[int]:
    with site.db.connection.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        for (number,) in cursor:
            yield number


def over_a_cursor_on_the_server(site: Site) -> Iterator[int]:
    with site.db.connection.cursor("on_the_server") as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        for (number,) in cursor:
            yield number


def in_its_own_context(site: Site) -> Iterator[int]:
    with site.app.app_context(), site.db.transaction():
        site.write("undone")
        yield 1


WAYS = [in_a_block, in_nested_blocks, in_the_drivers_own_way, over_a_cursor]
WAYS += [over_a_cursor_on_the_server]


def connects(site: Site) -> int:
    return int(site.pool.get_stats()["connections_num"])


@pytest.mark.parametrize("work", WAYS)
@pytest.mark.parametrize("leave", ["close", "drop"])
def test_one_that_a_view_leaves_early_costs_no_connection(
    site: Site, work: Work, leave: str
) -> None:
    @site.app.post("/")
    def view() -> Any:
        generator = work(site)
        with closing(generator) if leave == "close" else nullcontext():  # type: ignore[type-var]
            assert next(generator) == 1
        del generator
        site.write("kept")
        return "ok"

    for _ in range(TIMES):
        assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["kept"] * TIMES
    assert connects(site) == 1
    assert site.lent() == 0


@pytest.mark.parametrize("work", [*WAYS, in_its_own_context])
def test_one_that_ends_early_outside_requests_costs_no_connection(site: Site, work: Work) -> None:
    for _ in range(TIMES):
        with nullcontext() if work is in_its_own_context else site.app.app_context():
            generator = work(site)
            assert next(generator) == 1
            generator.close()  # type: ignore[attr-defined]
    assert site.database.notes() == []
    assert connects(site) == 1
    assert site.lent() == 0


@pytest.mark.parametrize("work", [in_a_block, over_a_cursor, over_a_cursor_on_the_server])
@pytest.mark.parametrize("kept", [True, False])
def test_a_stream_whose_client_goes_away_costs_no_connection(
    site: Site, work: Work, kept: bool
) -> None:
    @site.app.post("/")
    def view() -> Any:
        rows = (f"{number}" for number in [*work(site)] * 2) if False else work(site)
        body = (f"{number} " for number in rows)
        return Response(site.db.keep_open(body) if kept else stream_with_context(body))

    for _ in range(TIMES):
        environ = site.app.test_request_context("/", method="POST").request.environ
        body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
        assert next(iter(body)) == b"1 "
        body.close()
        assert site.lent() == 0
    assert site.database.notes() == []
    assert connects(site) == 1


def test_a_block_that_is_left_early_calls_what_follows_a_rollback(site: Site) -> None:
    called: list[str] = []

    def rows() -> Iterator[int]:
        with site.db.transaction():
            site.db.on_rollback(lambda: called.append("rolled back"))
            site.db.on_commit(lambda: called.append("committed"))
            yield 1

    with site.app.app_context():
        generator = rows()
        next(generator)
        generator.close()  # type: ignore[attr-defined]
        assert called == ["rolled back"]
