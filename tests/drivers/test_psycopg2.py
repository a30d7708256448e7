"""What is psycopg2's own: notices, asynchronous connections."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from psycopg2 import extensions

from dbpool import ConnectionPool, Misconfigured
from tests.drivers.conftest import run
from tests.support.callers import PATIENCE, MakePool
from tests.support.servers import Postgres

NOTICE = "DO $$ BEGIN RAISE NOTICE 'private'; END $$"


@pytest.fixture
def pg_pool(new_pool: MakePool, postgres: Postgres) -> MakePool:
    def make(**options: Any) -> ConnectionPool:
        return new_pool(postgres.dsn(), driver="psycopg2", **{"max_size": 1, **options})

    return make


def test_a_borrower_does_not_find_the_notices_of_the_last(pg_pool: MakePool) -> None:
    pool = pg_pool()
    with pool.connection() as conn:
        run(conn, NOTICE)
        assert len(conn.notices) == 1
    with pool.connection() as other:
        assert other is conn
        assert other.notices == []


def test_a_place_for_notices_of_ones_own_is_left_alone(pg_pool: MakePool) -> None:
    notices: deque[str] = deque(maxlen=10)

    def configure(conn: Any) -> None:
        conn.notices = notices

    pool = pg_pool(configure=configure)
    for _ in range(3):
        with pool.connection() as conn:
            run(conn, NOTICE)
    assert len(notices) == 3
    assert pool.get_stats()["connections_num"] == 1


class OwnConnection(extensions.connection):
    """A class of the user's own."""


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("own_class", [False, True])
@pytest.mark.parametrize("given", ["UTF8", "LATIN1"])
def test_a_client_encoding_of_the_borrowers_is_put_back(
    given: str, own_class: bool, autocommit: bool, pg_pool: MakePool
) -> None:
    def configure(conn: Any) -> None:
        conn.autocommit = autocommit

    kwargs: dict[str, Any] = {"client_encoding": given}
    if own_class:
        kwargs["connection_factory"] = OwnConnection
    pool = pg_pool(kwargs=kwargs, configure=configure)
    with pool.connection() as conn:
        conn.set_client_encoding("WIN1252")
        assert run(conn, "SHOW client_encoding")[0][0] == "WIN1252"
    with pool.connection() as other:
        assert other is conn, "it was replaced instead"
        assert other.encoding == given
        assert run(other, "SHOW client_encoding")[0][0] == given
        assert run(other, "SELECT 'ü'")[0][0] == "ü"
    assert pool.get_stats()["returns_bad"] == 0


@pytest.mark.parametrize("option", ["async", "async_"])
def test_an_asynchronous_connection_is_refused_with_a_clear_word(
    option: str, pg_pool: MakePool
) -> None:
    with pytest.raises(TypeError, match=f"{option}=True in kwargs is not possible"):
        pg_pool(kwargs={option: True})
    pool = pg_pool(kwargs=lambda: {option: 1})
    with pytest.raises(Misconfigured, match="asynchronous"):
        pool.getconn(PATIENCE)
    with pg_pool(kwargs={option: False}).connection() as conn:
        assert run(conn, "SELECT 1") == [(1,)]
