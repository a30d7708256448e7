"""SQLite files on a pool."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import inside
from tests.web_django.project import in_thread, is_inside

pytestmark = pytest.mark.project(tables=False)


class File:
    """A database file with the shelf's table, and an alias on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sql("CREATE TABLE shelf_book (id integer PRIMARY KEY, title text UNIQUE)")

    def sql(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement).fetchall()

    def titles(self) -> list[str]:
        return [title for (title,) in self.sql("SELECT title FROM shelf_book ORDER BY title")]

    def alias(self, pool: object = None, **changes: Any) -> Any:
        from django.db import connections

        settings: dict[str, Any] = {
            "ENGINE": "dbpool_django.backends.sqlite3",
            "NAME": self.path,
            **changes,
        }
        settings.setdefault("OPTIONS", {})
        if pool is not None:
            settings["OPTIONS"]["pool"] = pool
        connections.settings["file"] = settings
        connections.configure_settings(connections.settings)
        return connections["file"]


@pytest.fixture
def file(tmp_path: Path) -> File | None:
    return File(tmp_path / "shelf.sqlite3") if is_inside() else None


def test_a_file_is_pooled_and_opened_once(file: File) -> None:
    from django.db import connections

    from tests.web_django.shelf.models import Book

    init = "PRAGMA cache_size = -321"
    wrapper = file.alias({"max_size": 2}, OPTIONS={"init_command": init})
    seen = set()
    for number in range(3):
        Book.objects.using("file").create(title=str(number))
        seen.add(id(wrapper.connection))
        with wrapper.cursor() as cursor:
            cursor.execute("PRAGMA cache_size")
            assert cursor.fetchone() == (-321,)
            cursor.execute("PRAGMA foreign_keys")
            assert cursor.fetchone() == (1,)
        wrapper.close()
        assert wrapper.connection is None
    assert len(seen) == 1
    stats = wrapper.pool.get_stats()
    assert (stats["connections_num"], stats["pool_available"]) == (1, 1)
    assert file.titles() == ["0", "1", "2"]
    # Django's functions are there in every thread.
    found = in_thread(lambda: Book.objects.using("file").filter(title__regex=r"^[12]$").count())
    assert found == 2
    inside.audit(wrapper.pool)
    connections["file"].close_pool()


def test_a_database_in_memory_stays_djangos(file: File) -> None:
    for name in (":memory:", "file:shelf?mode=memory&cache=shared"):
        wrapper = file.alias(NAME=name)
        assert wrapper.pool is None
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
        wrapper.close()
        assert wrapper.connection is not None
        wrapper.connection.close()  # Django does not, and Python 3.13 warns of it
        from django.db import connections

        del connections["file"]


def test_false_is_plain_django(file: File) -> None:
    wrapper = file.alias(False)
    wrapper.ensure_connection()
    assert wrapper.pool is None
    assert type(wrapper.connection) is sqlite3.Connection
    wrapper.close()


def test_what_is_left_open_is_rolled_back(file: File) -> None:
    from django.db import transaction

    from tests.web_django.shelf.models import Book

    wrapper = file.alias({"max_size": 1})
    books = Book.objects.using("file")
    with wrapper.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO shelf_book (title) VALUES ('left open')")
    wrapper.close()
    books.create(title="one")
    transaction.set_autocommit(False, using="file")
    books.create(title="never committed")
    wrapper.close()
    with transaction.atomic(using="file"):
        books.create(title="two")
    wrapper.close()
    assert file.titles() == ["one", "two"]
    assert wrapper.pool.get_stats()["connections_num"] == 1
    inside.audit(wrapper.pool)


def test_threads_that_end_cost_no_slot(file: File) -> None:
    from django.db import connections

    from tests.web_django.shelf.models import Book

    file.alias({"max_size": 2, "timeout": 30})
    kept = []

    def query() -> int:
        kept.append(connections["file"])
        return Book.objects.using("file").count()

    assert [in_thread(query) for _ in range(5)] == [0] * 5


def test_a_full_pool_is_an_operational_error(file: File) -> None:
    from django.db import OperationalError

    from dbpool import PoolTimeout

    wrapper = file.alias({"max_size": 1, "timeout": 0.1})
    wrapper.ensure_connection()
    copy = wrapper.copy()
    with pytest.raises(OperationalError) as caught:
        copy.ensure_connection()
    assert isinstance(caught.value.__cause__, PoolTimeout)
    wrapper.close()


def test_discard_opens_the_file_anew_with_all_that_django_adds(file: File) -> None:
    wrapper = file.alias({"max_size": 1, "reset": "discard"})
    with wrapper.cursor() as cursor:
        cursor.execute("PRAGMA foreign_keys = OFF")
        cursor.execute("CREATE TEMP TABLE leftover (id int)")
    wrapper.close()
    with wrapper.cursor() as cursor:
        cursor.execute("PRAGMA foreign_keys")
        assert cursor.fetchone() == (1,)
        cursor.execute("SELECT count(*) FROM sqlite_temp_master")
        assert cursor.fetchone() == (0,)
        cursor.execute("SELECT django_date_extract('year', '2024-05-06')")
        assert cursor.fetchone() == (2024,)
    wrapper.close()
    assert wrapper.pool.get_stats()["connections_num"] == 1
    inside.audit(wrapper.pool)


def test_a_child_has_connections_of_its_own(file: File) -> None:
    from tests.web_django.shelf.models import Book

    wrapper = file.alias({"max_size": 2})
    books = Book.objects.using("file")
    books.create(title="parent")
    held = wrapper.connection
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if wrapper.connection is None:
                books.create(title="child")
                code = wrapper.connection is held
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    books.create(title="parent again")
    wrapper.close()
    assert file.titles() == ["child", "parent", "parent again"]


def test_the_health_check_may_ask_it(file: File) -> None:
    wrapper = file.alias()
    wrapper.ensure_connection()
    assert wrapper.pool.driver.probe(wrapper.connection)
    wrapper.close()


@pytest.mark.parametrize(
    ("options", "locks"),
    [
        ({"transaction_mode": "IMMEDIATE"}, True),
        ({"transaction_mode": "exclusive"}, True),
        ({}, False),
    ],
    ids=["immediate", "exclusive", "as ever"],
)
def test_an_atomic_block_takes_its_lock_when_the_settings_say_so(
    options: dict[str, Any], locks: bool, file: File
) -> None:
    import django

    if django.VERSION < (5, 1):
        pytest.skip("Django has it from 5.1 on")
    from django.db import connections, transaction

    def is_locked() -> bool:
        with closing(sqlite3.connect(file.path, timeout=0, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    file.alias({"max_size": 1}, OPTIONS=options)

    def look() -> bool:
        with transaction.atomic(using="file"):
            with connections["file"].cursor() as cursor:
                cursor.execute("SELECT count(*) FROM shelf_book")
            found = is_locked()
        connections["file"].close()
        return found

    assert [look(), look(), in_thread(look)] == [locks] * 3
    assert not is_locked()
