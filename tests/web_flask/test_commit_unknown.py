"""What a commit says when it cannot say that it committed (in the core, for every adapter)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dbpool import CommitUnknown, ConnectionPool, TransactionAborted
from tests.support import inside
from tests.web_flask.conftest import DRIVER, Database, pg


@pytest.fixture
def pool(database: Database) -> Iterator[ConnectionPool]:
    with ConnectionPool(database.url, max_size=1, driver=DRIVER) as pool:
        yield pool
        inside.audit(pool)


def test_a_link_lost_during_commit_is_commit_unknown(pool: ConnectionPool) -> None:
    with pytest.raises(CommitUnknown, match="not known") as caught:
        with pool.connection() as conn:
            conn.cursor().execute("INSERT INTO deadly VALUES (1)")
    assert isinstance(caught.value, pg.OperationalError)
    assert isinstance(caught.value.__cause__, pg.Error)
    with pool.connection() as conn:  # the slot is free, with a good connection in it
        conn.cursor().execute("SELECT 1")


def test_a_commit_that_the_server_refuses_is_the_drivers_error(pool: ConnectionPool) -> None:
    with pytest.raises(pg.errors.ForeignKeyViolation):
        with pool.connection() as conn:
            conn.cursor().execute("INSERT INTO child VALUES (1)")


def test_a_link_known_to_be_lost_before_the_commit_is_an_aborted_transaction(
    pool: ConnectionPool, database: Database
) -> None:
    lease = pool.connection()
    cursor = lease.__enter__().cursor()
    cursor.execute("INSERT INTO note (text) VALUES ('lost')")
    with pytest.raises(pg.OperationalError):
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(TransactionAborted, match="lost before the commit"):
        lease.__exit__(None, None, None)
    assert database.notes() == []
