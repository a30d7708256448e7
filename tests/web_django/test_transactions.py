"""What a request leaves open is rolled back, and never costs another request what it wrote."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import inside
from tests.web_django.project import Project
from tests.web_django.site import Site


def _audit() -> None:
    from django.db import connection

    stats = connection.pool.get_stats()
    assert stats["pool_available"] == stats["pool_size"]
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1})
def test_autocommit_that_a_view_switched_off_is_back_on(site: Site, project: Project) -> None:
    from django.db import connection, transaction
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("off")
    def off(request: Any) -> Any:
        transaction.set_autocommit(False)
        Book.objects.create(title="never committed")
        return HttpResponse("ok")

    @site.view("next")
    def next_(request: Any) -> Any:
        Book.objects.create(title="committed")
        return HttpResponse(str(connection.connection.autocommit))

    assert site.get("off").status == 200
    assert site.get("next") == (200, "True")
    assert project.titles() == ["committed"]
    _audit()


@pytest.mark.project(pool={"max_size": 1})
def test_a_raw_begin_left_open_does_not_swallow_the_next_requests_writes(
    site: Site, project: Project
) -> None:
    from django.db import connection
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("begin")
    def begin(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO shelf_book (title) VALUES ('left open')")
        return HttpResponse("ok")

    @site.view("next")
    def next_(request: Any) -> Any:
        Book.objects.create(title="confirmed")
        return HttpResponse("ok")

    assert site.get("begin").status == 200
    assert site.get("next").status == 200
    assert project.titles() == ["confirmed"]
    _audit()


@pytest.mark.project(pool={"max_size": 1})
def test_a_view_that_raises_in_an_atomic_block_leaves_nothing(site: Site, project: Project) -> None:
    from django.db import transaction
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("raises")
    def raises(request: Any) -> Any:
        with transaction.atomic():
            Book.objects.create(title="rolled back")
            raise LookupError("in the middle")

    @site.view("next")
    def next_(request: Any) -> Any:
        with transaction.atomic():
            Book.objects.create(title="committed")
        return HttpResponse("ok")

    assert site.get("raises").status == 500
    assert site.get("next").status == 200
    assert project.titles() == ["committed"]
    _audit()


@pytest.mark.project(pool={"max_size": 1}, database={"ATOMIC_REQUESTS": True})
def test_atomic_requests_commit_or_roll_back_with_the_view(site: Site, project: Project) -> None:
    from django.http import Http404, HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("good")
    def good(request: Any) -> Any:
        Book.objects.create(title="good")
        return HttpResponse("ok", status=400)  # Django's rule: only an exception rolls back

    @site.view("missing")
    def missing(request: Any) -> Any:
        Book.objects.create(title="missing")
        raise Http404

    assert site.get("good").status == 400
    assert site.get("missing").status == 404
    assert project.titles() == ["good"]
    _audit()


@pytest.mark.project(pool={"max_size": 1})
def test_a_swallowed_database_error_in_a_transaction_fails_the_request_not_the_next(
    site: Site, project: Project
) -> None:
    from django.db import IntegrityError, transaction
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("swallows")
    def swallows(request: Any) -> Any:
        with transaction.atomic():
            Book.objects.create(title="twice")
            try:
                Book.objects.create(title="twice")
            except IntegrityError:
                pass
            Book.objects.create(title="after the error")
        return HttpResponse("ok")

    @site.view("next")
    def next_(request: Any) -> Any:
        Book.objects.create(title="next")
        return HttpResponse("ok")

    assert site.get("swallows").status == 500
    assert site.get("next").status == 200
    assert project.titles() == ["next"]
    _audit()


@pytest.mark.project(pool={"max_size": 1})
def test_close_in_an_atomic_block_rolls_back_and_gives_back(project: Project) -> None:
    from django.db import Error, connection, transaction

    from tests.web_django.shelf.models import Book

    with transaction.atomic():
        Book.objects.create(title="rolled back")
        connection.close()
        assert connection.pool.get_stats()["pool_available"] == 1
        with pytest.raises(Error, match="closed"):
            Book.objects.count()
    Book.objects.create(title="afterwards")
    assert project.titles() == ["afterwards"]
    connection.close()
    _audit()


@pytest.mark.project(pool={"max_size": 1})
def test_the_isolation_level_a_view_changed_is_put_back(site: Site) -> None:
    from django.db import connection
    from django.db.backends.postgresql.psycopg_any import IsolationLevel, is_psycopg3
    from django.http import HttpResponse

    @site.view("changes")
    def changes(request: Any) -> Any:
        connection.ensure_connection()
        connection.connection.isolation_level = IsolationLevel.SERIALIZABLE
        setattr(connection.connection, "read_only" if is_psycopg3 else "readonly", True)
        return HttpResponse("ok")

    @site.view("next")
    def next_(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('transaction_isolation'), "
                "current_setting('transaction_read_only')"
            )
            return HttpResponse("/".join(cursor.fetchone()))

    assert site.get("changes").status == 200
    assert site.get("next") == (200, "read committed/off")
    _audit()


@pytest.mark.project(pool={"max_size": 1})
@pytest.mark.parametrize("reset", ["auto", "rollback"])
def test_a_time_zone_a_view_changed_is_put_back(site: Site, reset: str) -> None:
    from django.db import connection
    from django.http import HttpResponse

    connection.settings_dict["OPTIONS"]["pool"]["reset"] = reset

    @site.view("changes")
    def changes(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
        return HttpResponse("ok")

    @site.view("next")
    def next_(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('TimeZone')")
            return HttpResponse(cursor.fetchone()[0])

    assert site.get("changes").status == 200
    assert site.get("next") == (200, "UTC")


@pytest.mark.project(pool={"max_size": 1, "reset": "discard"})
def test_discard_leaves_no_session_state_but_djangos_own(site: Site) -> None:
    from django.db import connection
    from django.http import HttpResponse

    @site.view("leaves")
    def leaves(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SET search_path TO pg_catalog")
            cursor.execute("SET statement_timeout TO 4321")
            cursor.execute("SELECT pg_advisory_lock(7)")
            cursor.execute("CREATE TEMP TABLE leftover (id int)")
        return HttpResponse("ok")

    @site.view("next")
    def next_(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('search_path') <> 'pg_catalog', "
                "current_setting('statement_timeout'), "
                "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
                " AND pid = pg_backend_pid()), to_regclass('pg_temp.leftover'), "
                "current_setting('TimeZone')"
            )
            return HttpResponse(repr(cursor.fetchone()))

    assert site.get("leaves").status == 200
    assert site.get("next") == (200, "(True, '0', 0, None, 'UTC')")
    _audit()


@pytest.mark.project(pool={"max_size": 1}, database={"AUTOCOMMIT": False})
def test_without_autocommit_an_open_transaction_is_no_news(
    site: Site, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    from django.db import connection, transaction
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("writes")
    def writes(request: Any) -> Any:
        Book.objects.create(title="committed")
        transaction.commit()
        return HttpResponse(str(Book.objects.count()))  # which opens another

    @site.view("forgets")
    def forgets(request: Any) -> Any:
        Book.objects.create(title="never committed")
        return HttpResponse(str(Book.objects.count()))

    assert site.get("writes") == (200, "1")
    assert site.get("forgets") == (200, "2")
    assert site.get("forgets") == (200, "2")
    assert project.titles() == ["committed"]
    assert not [record for record in caplog.records if "rolled back" in record.getMessage()]
    assert connection.pool.get_stats()["connections_num"] == 1
    _audit()


@pytest.mark.project(pool={"max_size": 1})
def test_a_transaction_left_open_by_mistake_is_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    from django.db import transaction
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("forgets")
    def forgets(request: Any) -> Any:
        transaction.set_autocommit(False)
        return HttpResponse(str(Book.objects.count()))

    assert site.get("forgets").status == 200
    told = [record for record in caplog.records if "rolled back" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.project(pool={"max_size": 1})
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transactions_end_proves_that_the_server_answers(end: str) -> None:
    from django.db import connection, transaction

    pool = connection.pool
    with transaction.atomic():
        connection.ensure_connection()
    pool.note_failure()
    with transaction.atomic():
        pass
    assert inside.proved_at(pool) < inside.doubted_at(pool)  # neither driver has asked the server
    with transaction.atomic():
        connection.cursor().execute("SELECT 1")
        transaction.set_rollback(end == "rollback")
    assert inside.proved_at(pool) >= inside.doubted_at(pool)
    connection.close()
