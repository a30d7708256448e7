"""A COMMIT or ROLLBACK sent as SQL does not leave the next borrower without a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from tests.support.callers import MakePool
from tests.support.servers import Postgres


class Undo(Exception):
    """Ends a block whose work is to be rolled back."""


@pytest.fixture
def kept(postgres: Postgres) -> Iterator[Any]:
    """A table, seen from a session of its own."""
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE kept (n int)")
            yield cursor
            cursor.execute("DROP TABLE kept")


@pytest.mark.parametrize("command", ["COMMIT", "ROLLBACK"])
def test_after_a_raw_commit_the_next_borrowers_work_can_be_rolled_back(
    command: str, pg_pool: MakePool, kept: Any
) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute(command)  # psycopg2 believes itself in a transaction still
    pool.putconn(conn)

    def fail() -> None:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("INSERT INTO kept VALUES (2)")
            raise Undo

    with pytest.raises(Undo):
        fail()
    kept.execute("SELECT n FROM kept")
    assert kept.fetchall() == []
