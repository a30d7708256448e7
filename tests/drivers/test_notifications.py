"""What one borrower of a connection was notified of does not reach the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from tests.drivers.conftest import Backend, run
from tests.support.callers import MakePool


@pytest.fixture
def heard(backend: Backend) -> Callable[[Any], list[str]]:
    """Return a function that reads what a connection was notified of, without a round trip."""
    if not backend.is_postgres:
        pytest.skip("notifications are PostgreSQL's")

    def read(conn: Any) -> list[str]:
        if backend.name == "psycopg2":
            return [notify.payload for notify in conn.notifies]
        return [notify.payload for notify in conn._notifies_backlog]

    return read


def notified(conn: Any, backend: Backend) -> None:
    """Let a borrower listen, and hear what it tells itself."""
    backend.autocommit(conn)
    run(conn, "LISTEN news")
    run(conn, "NOTIFY news, 'private'")
    run(conn, "SELECT 1")
    run(conn, "UNLISTEN news")


def test_what_a_borrower_has_heard_and_not_read_is_forgotten(
    make: MakePool, backend: Backend, heard: Callable[[Any], list[str]]
) -> None:
    pool = make(max_size=1)
    with pool.connection() as conn:
        notified(conn, backend)
        assert heard(conn) == ["private"]
    with pool.connection() as other:
        assert other is conn
        assert heard(other) == []
        run(other, "SELECT 1")
        assert heard(other) == []
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["returns_bad"]) == (1, 0)


def test_a_place_of_the_users_own_for_them_goes_with_its_borrower(
    make: MakePool, backend: Backend, heard: Callable[[Any], list[str]]
) -> None:
    if backend.name != "psycopg2":
        pytest.skip("psycopg 3 has no such place")
    pool = make(max_size=1)
    mine: deque[Any] = deque()
    with pool.connection() as conn:
        conn.notifies = mine
        notified(conn, backend)
    with pool.connection() as other:
        assert other is conn
        assert heard(other) == []
        notified(other, backend)
    assert [notify.payload for notify in mine] == ["private"]
