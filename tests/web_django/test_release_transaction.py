"""`release="transaction"`: a connection is held for a statement or a transaction, no longer."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import inside
from tests.web_django.project import Project
from tests.web_django.site import Site

ONE = {"max_size": 1, "timeout": 30, "release": "transaction"}


def _held() -> int:
    from django.db import connection

    stats = connection.pool.get_stats()
    return int(stats["pool_size"] - stats["pool_available"])


@pytest.mark.project(pool=ONE)
@pytest.mark.parametrize("debug", [False, True])
def test_nothing_is_held_between_statements(project: Project, debug: bool) -> None:
    from django.db import connection

    from tests.web_django.shelf.models import Book

    connection.force_debug_cursor = debug
    Book.objects.create(title="a")
    assert _held() == 0
    assert list(Book.objects.all())
    assert _held() == 0
    Book.objects.update(title="b")
    assert _held() == 0
    assert Book.objects.get().title == "b"
    assert _held() == 0
    Book.objects.all().delete()
    assert _held() == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert _held() == 1
        assert cursor.fetchone() == (1,)
        assert cursor.fetchone() is None
        assert _held() == 0
    assert len(connection.queries) == (8 if debug else 0)  # with BEGIN and COMMIT
    inside.audit(connection.pool)


@pytest.mark.project(pool=ONE)
def test_a_transaction_holds_its_connection_to_its_end(project: Project) -> None:
    from django.db import connection, transaction

    from tests.web_django.shelf.models import Book

    hooks: list[int] = []
    with transaction.atomic():
        Book.objects.create(title="one")
        with transaction.atomic():
            Book.objects.create(title="two")
        assert _held() == 1
        transaction.on_commit(lambda: hooks.append(Book.objects.count()))
    assert (_held(), hooks) == (0, [2])
    with transaction.atomic():
        Book.objects.create(title="three")
        transaction.set_rollback(True)
    assert _held() == 0
    assert project.titles() == ["one", "two"]
    transaction.set_autocommit(False)
    Book.objects.create(title="four")
    transaction.commit()
    assert _held() == 1
    transaction.set_autocommit(True)
    assert _held() == 0
    assert project.titles() == ["four", "one", "two"]
    inside.audit(connection.pool)


@pytest.mark.project(pool=ONE)
def test_a_cursor_goes_on_with_another_connection(project: Project) -> None:
    from django.db import InterfaceError, connection

    cursor = connection.cursor()
    cursor.execute("SELECT generate_series(1, 3)")
    one = cursor.cursor
    cursor.execute("SELECT generate_series(1, 3)")
    assert cursor.cursor is one, "while it has its connection it is the same"
    assert cursor.fetchmany(2) == [(1,), (2,)]
    assert _held() == 1  # a row is unread
    assert cursor.fetchall() == [(3,)]
    assert _held() == 0
    assert [column.name for column in cursor.description] == ["generate_series"]
    connection.close_pool()
    cursor.execute("SELECT 4")
    assert list(cursor) == [(4,)]
    assert _held() == 0
    cursor.executemany("INSERT INTO shelf_book (title) VALUES (%s)", [["a"], ["b"]])
    cursor.close()
    assert _held() == 0
    assert project.titles() == ["a", "b"]
    with pytest.raises(InterfaceError, match="closed"):
        cursor.execute("SELECT 5")
    assert _held() == 0


def _copy(cursor: Any, title: str) -> None:
    with cursor.copy("COPY shelf_book (title) FROM STDIN") as copy:
        copy.write(f"{title}\n")


_WITHOUT_EXECUTE: dict[str, Callable[[Any, str], object]] = {
    "copy": _copy,
    "copy_expert": lambda cursor, title: cursor.copy_expert(
        "COPY shelf_book (title) FROM STDIN", io.StringIO(f"{title}\n")
    ),
    "copy_from": lambda cursor, title: cursor.copy_from(
        io.StringIO(f"{title}\n"), "shelf_book", columns=["title"]
    ),
    "stream": lambda cursor, title: list(
        cursor.stream("INSERT INTO shelf_book (title) VALUES (%s) RETURNING 1", [title])
    ),
}


@pytest.mark.project(pool={**ONE, "max_size": 2})
def test_what_sends_without_execute_takes_another_connection_too(project: Project) -> None:
    from django.db import connection

    sent = []
    for debug in (False, True):
        connection.force_debug_cursor = debug
        for how, send in _WITHOUT_EXECUTE.items():
            with connection.cursor() as cursor:
                if not hasattr(cursor.cursor, how):
                    continue
                cursor.execute("SELECT 1")
                assert cursor.fetchall() == [(1,)]
                assert _held() == 0
                with connection.pool.connection() as others:  # the one that this cursor has used
                    others.autocommit = False
                    others.cursor().execute("SELECT 1")
                    sent.append(f"{how}, {debug}")
                    send(cursor, sent[-1])
                    others.rollback()
            assert _held() == 0
    assert len(sent) == 4  # each driver has two of them
    assert set(project.titles()) == set(sent)
    inside.audit(connection.pool)


@pytest.mark.project(pool=ONE)
def test_results_that_are_read_in_parts_keep_their_connection() -> None:
    from django.db import connection

    from tests.web_django.shelf.models import Book

    Book.objects.bulk_create(Book(title=str(number)) for number in range(5))
    assert _held() == 0
    titles = Book.objects.values_list("title", flat=True).order_by("id").iterator(2)
    assert next(titles) == "0"
    assert _held() == 1
    assert Book.objects.count() == 5  # on the same one: there is no other
    assert list(titles) == ["1", "2", "3", "4"]
    assert _held() == 0
    inside.audit(connection.pool)


@pytest.mark.project(pool=ONE)
def test_session_state_pins_the_connection_until_the_requests_end(site: Site) -> None:
    from django.db import connection
    from django.http import HttpResponse

    seen: list[Any] = []

    @site.view("table")
    def table(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE scratch (id int)")
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO scratch VALUES (1)")
        seen.append(_held())
        return HttpResponse("ok")

    assert site.get("table").status == 200
    assert (seen, _held()) == ([1], 0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('pg_temp.scratch')")
        assert cursor.fetchone() == (None,)


@pytest.mark.project(pool=ONE)
def test_session_state_set_past_djangos_cursors_pins_too(site: Site) -> None:
    from django.db import connection
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    seen: list[Any] = []

    @site.view("raw")
    def raw(request: Any) -> Any:
        connection.ensure_connection()
        connection.connection.cursor().execute("SET app.tenant = 'acme'")
        Book.objects.count()
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('app.tenant', true)")
            seen.append(cursor.fetchone()[0])
        seen.append(_held())
        return HttpResponse("ok")

    assert site.get("raw").status == 200
    assert (seen, _held()) == (["acme", 1], 0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT nullif(current_setting('app.tenant', true), '')")
        assert cursor.fetchone() == (None,)


@pytest.mark.project(pool=ONE)
def test_a_view_that_waits_for_somebody_else_holds_nothing(site: Site) -> None:
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    together = threading.Barrier(4)

    @site.view("slow")
    def slow(request: Any) -> Any:
        before = Book.objects.count()
        together.wait(30)  # all four at once, with one connection
        return HttpResponse(str(before + Book.objects.count()))

    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(site.get("slow").status)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 4


@pytest.mark.project(pool=ONE)
def test_an_error_in_a_statement_gives_back_too() -> None:
    from django.db import DatabaseError, connection

    with connection.cursor() as cursor:
        with pytest.raises(DatabaseError):
            cursor.execute("SELECT no_such_column")
    assert _held() == 0
    inside.audit(connection.pool)


@pytest.mark.project(pool=ONE)
def test_receivers_of_connection_created_may_query() -> None:
    from django.db import connection
    from django.db.backends.signals import connection_created

    from tests.web_django.shelf.models import Book

    def query(connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    connection_created.connect(query)
    assert Book.objects.count() == 0
    assert _held() == 0
    inside.audit(connection.pool)
