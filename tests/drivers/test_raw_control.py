"""After SQL has ended a transaction, past the driver, what follows can still be rolled back."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions, extras

from dbpool import ConnectionPool
from tests.drivers.conftest import needs_psycopg, run
from tests.support.callers import MakePool
from tests.support.servers import Postgres


class Undo(Exception):
    """Ends a block whose work is to be rolled back."""


@contextmanager
def undone(pool: ConnectionPool) -> Iterator[Any]:
    """Lend a connection for a block that is rolled back at its end."""
    with suppress(Undo), pool.connection() as conn:
        yield conn
        raise Undo


@pytest.fixture(scope="module")
def table(postgres: Postgres) -> Iterator[Any]:
    """A table, seen from a session of its own."""
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE raw_control (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
            cursor.execute(
                "CREATE FUNCTION raw_control_add(n int) RETURNS void "
                "LANGUAGE sql AS 'INSERT INTO raw_control VALUES (n)'"
            )
            yield cursor
            cursor.execute("DROP FUNCTION raw_control_add")
            cursor.execute("DROP TABLE raw_control")


@pytest.fixture
def rows(table: Any) -> Callable[[], list[int]]:
    """Return the rows that are there for everybody."""
    table.execute("DELETE FROM raw_control")

    def look() -> list[int]:
        table.execute("SELECT n FROM raw_control ORDER BY n")
        return [n for (n,) in table.fetchall()]

    return look


@pytest.fixture(params=["psycopg2", pytest.param("psycopg", marks=needs_psycopg)])
def pool(request: pytest.FixtureRequest, new_pool: MakePool, postgres: Postgres) -> ConnectionPool:
    return new_pool(postgres.dsn(), driver=request.param, max_size=1)


@pytest.fixture
def pool2(new_pool: MakePool, postgres: Postgres) -> ConnectionPool:
    return new_pool(postgres.dsn(), driver="psycopg2", max_size=1)


def session(pool: ConnectionPool) -> int:
    with pool.connection() as conn:
        return int(run(conn, "SELECT pg_backend_pid()")[0][0])


ENDS = [
    "COMMIT",
    "ROLLBACK",
    "END",
    "ABORT",
    "commit work",
    "ROLLBACK AND NO CHAIN",
    "SELECT 1; ROLLBACK",
    "ROLLBACK; SELECT 1",
    "/* all of it */ ROLLBACK",
]


@pytest.mark.parametrize("command", ENDS)
def test_what_follows_a_raw_end_of_the_transaction_can_be_rolled_back(
    command: str, pool: ConnectionPool, rows: Callable[[], list[int]]
) -> None:
    before = session(pool)
    with undone(pool) as conn:
        run(conn, "SELECT 1")
        run(conn, command)
        run(conn, "INSERT INTO raw_control VALUES (1)")
    assert rows() == []
    assert session(pool) == before


@pytest.mark.parametrize("command", ENDS)
def test_what_follows_a_raw_end_of_the_transaction_is_committed_with_the_block(
    command: str, pool: ConnectionPool, rows: Callable[[], list[int]]
) -> None:
    with pool.connection() as conn:
        run(conn, "SELECT 1")
        run(conn, command)
        run(conn, "INSERT INTO raw_control VALUES (1)")
        assert rows() == []
    assert rows() == [1]


@pytest.mark.parametrize("chain", ["ROLLBACK AND CHAIN", "COMMIT AND CHAIN"])
def test_a_chained_transaction_can_be_rolled_back(
    chain: str, pool: ConnectionPool, rows: Callable[[], list[int]]
) -> None:
    with undone(pool) as conn:
        run(conn, "INSERT INTO raw_control VALUES (1)")
        run(conn, chain)
        run(conn, "INSERT INTO raw_control VALUES (2)")
    assert rows() == ([1] if chain.startswith("COMMIT") else [])


def test_a_raw_commit_that_fails_ends_the_transaction_too(
    pool: ConnectionPool, rows: Callable[[], list[int]]
) -> None:
    with undone(pool) as conn:
        run(conn, "INSERT INTO raw_control VALUES (1), (1)")
        with pytest.raises(Exception, match="duplicate key"):
            run(conn, "COMMIT")
        run(conn, "INSERT INTO raw_control VALUES (2)")
    assert rows() == []


def test_a_raw_begin_after_a_raw_end_is_the_blocks_transaction(
    pool: ConnectionPool, rows: Callable[[], list[int]]
) -> None:
    with undone(pool) as conn:
        run(conn, "SELECT 1")
        run(conn, "COMMIT")
        run(conn, "BEGIN")
        run(conn, "INSERT INTO raw_control VALUES (1)")
    assert rows() == []


def test_settings_of_the_transaction_count_after_a_raw_end(pool: ConnectionPool) -> None:
    with pool.connection() as conn:
        if pool.driver.name == "psycopg2":
            conn.set_session(isolation_level="SERIALIZABLE")
        else:
            import psycopg

            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        run(conn, "SELECT 1")
        run(conn, "ROLLBACK")
        assert run(conn, "SHOW transaction_isolation") == [("serializable",)]


def test_a_connection_that_comes_back_after_a_raw_end_is_kept(pool: ConnectionPool) -> None:
    before = session(pool)
    conn = pool.getconn()
    run(conn, "SELECT 1")
    run(conn, "ROLLBACK")
    pool.putconn(conn)
    del conn
    assert session(pool) == before
    assert pool.get_stats()["returns_bad"] == 0


# psycopg2: each way to send something

WAYS: dict[str, Callable[[Any], object]] = {
    "execute": lambda conn: conn.cursor().execute("INSERT INTO raw_control VALUES (1)"),
    "execute, arguments": lambda conn: conn.cursor().execute(
        query="INSERT INTO raw_control VALUES (%s)", vars=(1,)
    ),
    "executemany": lambda conn: conn.cursor().executemany(
        "INSERT INTO raw_control VALUES (%s)", [(1,), (2,)]
    ),
    "callproc": lambda conn: conn.cursor().callproc("raw_control_add", (1,)),
    "copy_from": lambda conn: conn.cursor().copy_from(io.StringIO("1\n2\n"), "raw_control"),
    "copy_expert": lambda conn: conn.cursor().copy_expert(
        "COPY raw_control FROM STDIN", io.StringIO("1\n2\n")
    ),
    "execute_values": lambda conn: extras.execute_values(
        conn.cursor(), "INSERT INTO raw_control VALUES %s", [(1,), (2,)]
    ),
    "a cursor of another class": lambda conn: conn.cursor(
        cursor_factory=extras.RealDictCursor
    ).execute("INSERT INTO raw_control VALUES (1)"),
    "by position": lambda conn: conn.cursor(None, extras.NamedTupleCursor).execute(
        "INSERT INTO raw_control VALUES (1)"
    ),
    "made by a function": lambda conn: conn.cursor(
        cursor_factory=lambda *a, **kw: extras.DictCursor(*a, **kw)
    ).execute("INSERT INTO raw_control VALUES (1)"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_way_to_write_after_a_raw_end_can_be_rolled_back(
    way: Callable[[Any], object], pool2: ConnectionPool, rows: Callable[[], list[int]]
) -> None:
    with undone(pool2) as conn:
        run(conn, "SELECT 1")
        run(conn, "ROLLBACK")
        way(conn)
    assert rows() == []


def test_one_cursor_for_all_of_it(pool2: ConnectionPool, rows: Callable[[], list[int]]) -> None:
    with undone(pool2) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("ROLLBACK")
        cursor.execute("INSERT INTO raw_control VALUES (1)")
    assert rows() == []


def test_large_objects_and_named_cursors_serve_after_a_raw_end(pool2: ConnectionPool) -> None:
    with pool2.connection() as conn:
        run(conn, "SELECT 1")
        run(conn, "COMMIT")
        with conn.cursor("named") as cursor:
            cursor.execute("SELECT 7")
            assert cursor.fetchall() == [(7,)]
        run(conn, "COMMIT")
        assert conn.lobject(0, "w").write(b"xyz") == 3
        conn.rollback()


def test_nothing_of_it_shows(pool2: ConnectionPool) -> None:
    """No notice of ours, and a cursor is what psycopg2 says that it is."""
    with pool2.connection() as conn:
        run(conn, "SELECT 1")
        run(conn, "ROLLBACK")
        run(conn, "SELECT 1")
        assert conn.notices == []
        plain = conn.cursor()
        assert isinstance(plain, extensions.cursor)
        assert repr(plain).startswith("<cursor object at ")
        assert not hasattr(plain, "__dict__")
        dicts = conn.cursor(cursor_factory=extras.DictCursor)
        assert isinstance(dicts, extras.DictCursor)
        dicts.execute("SELECT 5 AS five")
        assert dicts.fetchone()["five"] == 5
        assert type(dicts) is type(conn.cursor(cursor_factory=extras.DictCursor))
        with pytest.raises(TypeError, match="cursor factory must be"):
            conn.cursor(cursor_factory=lambda *args: 7)


class Counting(extensions.connection):
    """As a project writes them."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        self.cursors = getattr(self, "cursors", 0) + 1
        return super().cursor(*args, **kwargs)


@pytest.mark.parametrize(
    "given",
    [
        {"connection_factory": Counting},
        {"connection_factory": extras.DictConnection},
        {"cursor_factory": extras.DictCursor},
    ],
    ids=["a connection class", "psycopg2's dicts", "a cursor class"],
)
def test_classes_of_the_users_own_are_kept_in_step_too(
    given: dict[str, Any],
    new_pool: MakePool,
    postgres: Postgres,
    rows: Callable[[], list[int]],
) -> None:
    pool = new_pool(postgres.dsn(), driver="psycopg2", kwargs=given, max_size=1)
    with undone(pool) as conn:
        assert isinstance(conn, given.get("connection_factory", extensions.connection))
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1 AS one")
            assert cursor.fetchone()["one" if Counting not in given.values() else 0] == 1
            cursor.execute("ROLLBACK")
            cursor.execute("INSERT INTO raw_control VALUES (1)")
    assert rows() == []


def test_a_dropped_connection_is_not_kept_by_a_cursor_class_of_its_borrowers(
    pool2: ConnectionPool,
) -> None:
    def use() -> None:
        conn = pool2.getconn()

        class Mine(extensions.cursor):
            seen = conn

        conn.cursor(cursor_factory=Mine).execute("SELECT 1")

    use()
    gc.collect()
    session(pool2)
    assert pool2.get_stats()["connections_dropped"] == 1
