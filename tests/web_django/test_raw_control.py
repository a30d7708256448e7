"""After a COMMIT or ROLLBACK as SQL an atomic block is still kept or undone as a whole."""

from __future__ import annotations

import pytest


class Undo(Exception):
    """Ends a block whose work is to be rolled back."""


@pytest.mark.project
@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT", "SELECT 1; ROLLBACK"])
def test_what_follows_a_raw_end_in_an_atomic_block_can_be_undone(end: str) -> None:
    from django.db import connection, transaction

    from tests.web_django.shelf.models import Book

    def work() -> None:
        with transaction.atomic():
            Book.objects.count()
            with connection.cursor() as cursor:
                cursor.execute(end)
            Book.objects.create(title="after")
            raise Undo

    with pytest.raises(Undo):
        work()
    assert Book.objects.count() == 0
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(end)
        Book.objects.create(title="kept")
    connection.close()
    assert [book.title for book in Book.objects.all()] == ["kept"]
    assert connection.pool.get_stats()["connections_num"] == 1


@pytest.mark.project(pool={"reset": "rollback"})
def test_and_so_it_can_without_a_watch_on_the_session() -> None:
    from django.db import connection, transaction

    from tests.web_django.shelf.models import Book

    def work() -> None:
        with transaction.atomic():
            with connection.connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.execute("ROLLBACK")
            Book.objects.create(title="after")
            raise Undo

    with pytest.raises(Undo):
        work()
    assert Book.objects.count() == 0
