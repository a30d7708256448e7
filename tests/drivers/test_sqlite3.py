"""What is SQLite's own: its URLs, files and databases in memory, cursors left open."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import warnings
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dbpool import ConnectFailed, ConnectionPool, Misconfigured
from dbpool.drivers import choose
from dbpool.drivers.sqlite3 import Sqlite3Driver
from tests.drivers.conftest import run
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    in_thread,
    lent,
)
from tests.support.waiting import wait_until

INSERT = "INSERT INTO t VALUES (1)"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE t (i int)")
    return path


def file_of(conn: Any) -> str:
    return str(run(conn, "PRAGMA database_list")[0][2])


# URLs


def test_a_relative_path_starts_where_the_pool_was_made(
    tmp_path: Path, new_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = new_pool("sqlite:///relative.db", max_size=2)
    with pool.connection() as conn:
        assert file_of(conn) == str(tmp_path / "relative.db")
        monkeypatch.chdir("/")
        with pool.connection() as other:
            assert file_of(other) == str(tmp_path / "relative.db")


def test_an_absolute_path_has_four_slashes(tmp_path: Path, new_pool: MakePool) -> None:
    for url in (f"sqlite:///{tmp_path}/a.db", f"SQLite:///{tmp_path}/a.db"):
        with new_pool(url).connection() as conn:
            assert file_of(conn) == str(tmp_path / "a.db")
    with new_pool(lambda: f"sqlite:///{tmp_path}/a.db", driver="sqlite3").connection() as conn:
        assert file_of(conn) == str(tmp_path / "a.db")


@pytest.mark.parametrize(
    ("quoted", "name"),
    [
        ("a%20b.db", "a b.db"),
        ("100%25.db", "100%.db"),
        ("what%3F.db", "what?.db"),
        ("%23one.db", "#one.db"),
        ("gr%C3%BCn.db", "grün.db"),
        ("grün.db", "grün.db"),
        ("a b&c=d;e.db", "a b&c=d;e.db"),
        ("%2541.db", "%41.db"),
    ],
)
def test_a_path_is_percent_decoded_once(
    quoted: str, name: str, tmp_path: Path, new_pool: MakePool
) -> None:
    with new_pool(f"sqlite:///{tmp_path}/{quoted}").connection() as conn:
        run(conn, "CREATE TABLE t (i int)")
    assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "conninfo",
    [
        "sqlite:///",
        "sqlite://relative.db",
        "sqlite://user:sEcReT@host/file.db",
        "sqlite:///a%zz.db",
        "sqlite:///a%2",
        "sqlite:///a%00b.db",
        "sqlite:///a.db#part",
        "sqlite:///a.db?nonsense=1",
        "sqlite:///a.db?mode=memory",
        "sqlite:///a.db?mode=sEcReT",
        "sqlite:///a.db?mode",
        "sqlite://?mode=ro",
        "sqlite:///:memory:?cache=shared",
    ],
)
def test_a_malformed_url_is_refused_in_one_sentence(conninfo: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///relative\.db, sqlite:////absolute\.db") as no:
        ConnectionPool(conninfo)
    assert "sEcReT" not in str(no.value)
    assert no.value.__context__ is None


@pytest.mark.parametrize("conninfo", ["", "shop.db", "dbname=shop"])
def test_a_conninfo_that_is_no_url_is_refused(conninfo: str) -> None:
    with pytest.raises(ValueError, match=r"write sqlite:///relative\.db"):
        ConnectionPool(conninfo, driver="sqlite3")


def test_sqlites_own_parameters_serve(file: Path, new_pool: MakePool) -> None:
    with new_pool(f"sqlite:///{file}?mode=ro").connection() as conn:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            run(conn, INSERT)
    with pytest.raises(ConnectFailed):
        new_pool(f"sqlite:///{file}.missing?mode=rw").getconn()
    assert not Path(f"{file}.missing").exists()


def test_a_file_that_is_no_database_is_told_at_once(tmp_path: Path, new_pool: MakePool) -> None:
    (tmp_path / "text.db").write_text("something else " * 100)
    for mode in ("wal", None):
        pool = new_pool(f"sqlite:///{tmp_path}/text.db", kwargs={"journal_mode": mode})
        with pytest.raises(ConnectFailed) as caught:
            pool.getconn()
        assert caught.value.reason == "unknown_database"


# Files


def test_readers_work_beside_a_writer_and_writers_wait(file: Path, new_pool: MakePool) -> None:
    pool = new_pool(f"sqlite:///{file}", max_size=3)
    with lent(pool, 3) as (writer, reader, other):
        assert run(writer, "PRAGMA journal_mode") == [("wal",)]
        run(writer, INSERT)
        assert run(reader, "SELECT count(*) FROM t") == [(0,)]
        waiting = in_thread(run, other, INSERT)
        writer.commit()
        waiting.result(PATIENCE)
        other.commit()
        assert run(reader, "SELECT count(*) FROM t") == [(2,)]


def test_a_lock_is_waited_for_as_long_as_configured(file: Path, new_pool: MakePool) -> None:
    for kwargs, milliseconds in (({}, 5000), ({"timeout": 0.05}, 50)):
        with new_pool(f"sqlite:///{file}", kwargs=kwargs).connection() as conn:
            assert run(conn, "PRAGMA busy_timeout") == [(milliseconds,)]


@pytest.mark.parametrize("mode", ["delete", "truncate", None])
def test_the_journal_mode_may_be_another(mode: str | None, file: Path, new_pool: MakePool) -> None:
    pool = new_pool(f"sqlite:///{file}", kwargs={"journal_mode": mode})
    with pool.connection() as conn:
        assert run(conn, "PRAGMA journal_mode") == [(mode or "delete",)]


def test_foreign_keys_are_as_sqlite_has_them_or_as_configured(
    file: Path, new_pool: MakePool
) -> None:
    with closing(sqlite3.connect(file)) as plain:
        default = run(plain, "PRAGMA foreign_keys")
    with new_pool(f"sqlite:///{file}").connection() as conn:
        assert run(conn, "PRAGMA foreign_keys") == default

    def configure(conn: Any) -> None:
        conn.execute("PRAGMA foreign_keys = ON")

    with new_pool(f"sqlite:///{file}", configure=configure).connection() as conn:
        assert run(conn, "PRAGMA foreign_keys") == [(1,)]


def test_a_file_that_cannot_be_written_is_told_by_the_probe(file: Path, new_pool: MakePool) -> None:
    for query, writable in (("", True), ("?mode=ro", False)):
        pool = new_pool(f"sqlite:///{file}{query}")
        with pool.connection() as conn:
            assert pool.driver.probe(conn) is writable


# What a borrower leaves


def test_a_cursor_in_the_middle_of_its_rows_ends_with_the_loan(
    file: Path, new_pool: MakePool
) -> None:
    """It would keep the data of then: the next write on that connection would fail at once."""
    pool = new_pool(f"sqlite:///{file}", max_size=2, kwargs={"timeout": 0.05})
    with pool.connection() as conn:
        for _ in range(3):
            run(conn, INSERT)
    with lent(pool, 2) as (first, second):
        cursors = [first.cursor(), first.execute("SELECT i FROM t")]
        cursors[0].execute("SELECT i FROM t")
        assert [cursor.fetchone() for cursor in cursors] == [(1,)] * 2
        pool.putconn(first)
        run(second, INSERT)
        second.commit()
        again = pool.getconn()
        assert again is first
        run(again, INSERT)
        again.commit()
    for cursor in cursors:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            cursor.fetchone()
    assert pool.get_stats()["returns_bad"] == 0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 opens no blobs")
def test_a_blob_that_is_left_open_ends_with_the_loan(file: Path, new_pool: MakePool) -> None:
    """It would keep the file locked, and write into what is somebody else's by then."""
    pool = new_pool(f"sqlite:///{file}", max_size=2, kwargs={"timeout": 0.05})
    with pool.connection() as conn:
        run(conn, "CREATE TABLE b (b blob)")
        run(conn, "INSERT INTO b VALUES (zeroblob(5))")
    with lent(pool, 2) as (first, second):
        blob = first.blobopen("b", "b", 1)
        blob.write(b"hello")
        pool.putconn(first)
        run(second, INSERT)
        second.commit()
        assert pool.getconn() is first
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            blob.write(b"!")
    assert pool.get_stats()["returns_bad"] == 0


def test_cursors_that_are_gone_are_not_remembered(file: Path, new_pool: MakePool) -> None:
    with new_pool(f"sqlite:///{file}").connection() as conn:
        for _ in range(1000):
            conn.execute("SELECT 1").fetchall()
        assert len(conn._dbpool_cursors) <= 100
        kept = [conn.cursor() for _ in range(300)]
        assert len(conn._dbpool_cursors) >= 300
        del kept


def test_a_query_in_flight_costs_the_connection_and_is_ended(new_pool: MakePool) -> None:
    pool = new_pool("sqlite://", max_size=1)
    conn = pool.getconn()
    entered = []
    conn.create_function("entered", 0, lambda: entered.append(1) or 1)
    query = in_thread(
        run,
        conn,
        "WITH RECURSIVE r(i) AS (SELECT entered() UNION ALL SELECT i + 1 FROM r) "
        "SELECT max(i) FROM r",
    )
    while not entered:
        pass
    in_thread(pool.putconn, conn).result(PATIENCE)
    with pytest.raises(sqlite3.Error):
        query.result(PATIENCE)
    with pool.connection() as other:
        assert other is not conn
    assert pool.get_stats()["returns_bad"] == 1
    expect_full_capacity(pool)


def test_reset_discard_forgets_what_no_command_could(file: Path, new_pool: MakePool) -> None:
    pool = new_pool(f"sqlite:///{file}", max_size=1, reset="discard")
    with pool.connection() as conn:
        before = run(conn, "PRAGMA foreign_keys")
        run(conn, f"PRAGMA foreign_keys = {1 - before[0][0]}")
        run(conn, "PRAGMA query_only = 1")
        run(conn, "ATTACH ':memory:' AS other")
        conn.create_function("mine", 0, lambda: 1)
    for _ in range(3):
        with pool.connection() as again:
            assert again is conn
            assert run(again, "PRAGMA foreign_keys") == before
            assert len(run(again, "PRAGMA database_list")) == 1
            with pytest.raises(sqlite3.OperationalError):
                run(again, "SELECT mine()")
            run(again, INSERT)
    with pool.connection() as conn:
        assert run(conn, "SELECT count(*) FROM t") == [(3,)]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the attribute came with Python 3.12")
def test_a_borrower_may_turn_autocommit_off(file: Path, new_pool: MakePool) -> None:
    pool = new_pool(f"sqlite:///{file}", max_size=1)
    with pool.connection() as conn:
        before = conn.autocommit
        conn.autocommit = False
        run(conn, INSERT)
    with pool.connection() as again:
        assert again is conn
        assert again.autocommit == before
        assert not again.in_transaction
        assert run(again, "SELECT count(*) FROM t") == [(1,)]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the attribute came with Python 3.12")
def test_a_raw_begin_ends_with_the_loan_in_autocommit_mode(file: Path, new_pool: MakePool) -> None:
    """Where commit() and rollback() of sqlite3 do nothing."""
    pool = new_pool(f"sqlite:///{file}", max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        run(conn, "BEGIN")
        run(conn, INSERT)
    with pool.connection() as again:
        assert again is conn
        assert run(again, "SELECT count(*) FROM t") == [(1,)]
        pool.driver.rollback(again)
        run(again, "BEGIN")
        run(again, INSERT)
        pool.driver.rollback(again)
        assert run(again, "SELECT count(*) FROM t") == [(1,)]


# kwargs


def test_a_factory_of_ones_own_serves_and_keeps_what_it_does(
    file: Path, new_pool: MakePool
) -> None:
    class Mine(sqlite3.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.execute("PRAGMA foreign_keys = ON")
            self.made = True

    class Slotted(sqlite3.Connection):
        __slots__ = ()

    for reset in (None, "discard"):
        pool = new_pool(f"sqlite:///{file}", max_size=1, kwargs={"factory": Mine}, reset=reset)
        for _ in range(2):
            with pool.connection() as conn:
                assert isinstance(conn, Mine)
                assert conn.made
                assert run(conn, "PRAGMA foreign_keys") == [(1,)]
        assert pool.get_stats()["returns_bad"] == 0
    with new_pool(f"sqlite:///{file}", kwargs={"factory": Slotted}).connection() as conn:
        assert isinstance(conn, Slotted)
        assert weakref.ref(conn)() is conn


def test_rows_are_made_as_configured(file: Path, new_pool: MakePool) -> None:
    def configure(conn: Any) -> None:
        conn.row_factory = sqlite3.Row

    pool = new_pool(f"sqlite:///{file}", max_size=1, configure=configure)
    for _ in range(2):
        with pool.connection() as conn:
            assert conn.execute("SELECT 1 AS one").fetchone()["one"] == 1
            conn.row_factory = None


def test_the_pool_is_the_guard_of_threads(file: Path, new_pool: MakePool) -> None:
    pool = new_pool(f"sqlite:///{file}", max_size=1, kwargs={"check_same_thread": True})
    conn = pool.getconn()
    assert in_thread(run, conn, "SELECT 1").result(PATIENCE) == [(1,)]
    pool.putconn(conn)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"database": "other.db"},
        {"uri": True},
        {"factory": lambda *args, **kwargs: None},
        {"factory": dict},
        {"autocommit": False},
        {"journal_mode": "sideways"},
    ],
    ids=["database", "uri", "lambda", "dict", "autocommit", "journal_mode"],
)
def test_kwargs_that_cannot_serve_are_refused(kwargs: dict[str, Any], new_pool: MakePool) -> None:
    name = next(iter(kwargs))
    with pytest.raises((TypeError, ValueError), match=name):
        ConnectionPool("sqlite://", kwargs=kwargs)
    pool = new_pool("sqlite://", kwargs=lambda: kwargs)
    with pytest.raises(Misconfigured, match=name):
        pool.getconn(PATIENCE)


# Databases in memory


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_outlives_its_connections_and_is_the_pools_own(
    url: str, new_pool: MakePool
) -> None:
    pool, other = new_pool(url, max_size=2), new_pool(url)
    with pool.connection() as conn:
        run(conn, "CREATE TABLE t (i int)")
        run(conn, INSERT)
    pool.drain()
    assert pool.get_stats()["pool_size"] == 0
    with pool.connection() as conn:
        assert run(conn, "SELECT count(*) FROM t") == [(1,)]
    with other.connection() as conn, pytest.raises(sqlite3.OperationalError, match="no such table"):
        run(conn, INSERT)


@pytest.mark.skipif(sqlite3.sqlite_version_info < (3, 36), reason="SQLite's memdb came with 3.36")
def test_a_lock_in_memory_is_waited_for(new_pool: MakePool) -> None:
    pool = new_pool("sqlite://", max_size=3)
    with pool.connection() as conn:
        run(conn, "CREATE TABLE t (i int)")
    with lent(pool, 3) as (writer, reader, second):
        run(writer, INSERT)
        asked = in_thread(run, reader, "SELECT count(*) FROM t")
        written = in_thread(run, second, INSERT)
        assert not asked.done()
        writer.commit()
        written.result(PATIENCE)
        second.commit()
        assert asked.result(PATIENCE)[0][0] in (1, 2)


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_database_in_memory_ends_with_its_pool(how: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool = ConnectionPool("sqlite://", max_size=2)
        with pool.connection() as conn:
            run(conn, "CREATE TABLE t (i int)")
            uri = conn._dbpool_opened[0]
        if how == "closed":
            pool.close()
            assert tables(uri) == []
        del pool, conn

        def is_gone() -> bool:
            gc.collect()  # each time: a connector that is about to end may hold the pool yet
            return tables(uri) == []

        wait_until(is_gone, PATIENCE, "the database ends with the last of it")
    assert [str(warning.message) for warning in caught] == []


def test_a_connect_after_the_close_keeps_nothing() -> None:
    driver = Sqlite3Driver()
    driver.pool_closed()
    conn = driver.connect("sqlite://", {}, timeout=1, name="late")
    run(conn, "CREATE TABLE t (i int)")
    uri = conn._dbpool_opened[0]
    assert tables(uri) == [("t",)]
    driver.close(conn)
    assert tables(uri) == []


def tables(uri: str) -> list[Any]:
    with closing(sqlite3.connect(uri, uri=True)) as conn:
        return run(conn, "SELECT name FROM sqlite_master")


def test_a_forked_child_has_an_empty_database_and_the_parents_is_unharmed(
    new_pool: MakePool,
) -> None:
    pool = new_pool("sqlite://", max_size=2)
    with pool.connection() as conn:
        run(conn, "CREATE TABLE t (i int)")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pool.connection(timeout=PATIENCE) as mine:
                assert run(mine, "SELECT name FROM sqlite_master") == []
                run(mine, "CREATE TABLE theirs (i int)")
            with pool.connection(timeout=PATIENCE), pool.connection(timeout=PATIENCE) as mine:
                assert run(mine, "SELECT name FROM sqlite_master") == [("theirs",)]
            pool.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    with pool.connection() as conn:
        assert run(conn, "SELECT name FROM sqlite_master") == [("t",)]


def test_the_url_alone_chooses_the_driver() -> None:
    driver, conninfo = choose("sqlite:///a.db", None)
    assert (driver.name, conninfo) == ("sqlite3", "sqlite:///a.db")
