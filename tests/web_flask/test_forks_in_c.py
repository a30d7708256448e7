"""A child that C code has forked has nothing of what its parent's context holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from dbpool_flask import ConnectionReleased
from tests.support.forking import forking_in_c, in_child
from tests.web_flask.conftest import MakeSite

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

READS: dict[str, Callable[[Any], Any]] = {
    "fetchone": lambda cursor: cursor.fetchone(),
    "fetchmany": lambda cursor: cursor.fetchmany(1),
    "fetchall": lambda cursor: cursor.fetchall(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_cursor_of_the_parents_reads_no_rows_in_the_child(
    make_site: MakeSite, read: Callable[[Any], Any]
) -> None:
    """Outside a transaction; one that is open stays the parent's, and fails in the child."""
    site = make_site(DBPOOL_OPTIONS={"kwargs": {"autocommit": True}})
    with site.app.app_context(), site.db.connection.cursor() as cursor:
        cursor.execute("SELECT 1")

        def child() -> bool:
            try:
                read(cursor)
            except ConnectionReleased:
                return True
            return False

        with forking_in_c():
            assert in_child(child)
        assert cursor.fetchall() == [(1,)]


def test_the_child_goes_on_in_its_parents_context_with_a_connection_of_its_own(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_OPTIONS={"kwargs": {"autocommit": True}})

    def ask() -> tuple[int, int]:
        with site.db.connection.cursor() as cursor:
            cursor.execute("SELECT 2, pg_backend_pid()")
            two, session = cursor.fetchone()
            return two, session

    with site.app.app_context():
        _, parents = ask()
        with forking_in_c():
            two, childs = in_child(ask)
        assert two == 2
        assert childs != parents
        assert ask() == (2, parents)
