"""Slots come back from borrowers that never give their connection back."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from tests.support import inside
from tests.support.callers import PATIENCE, open_one
from tests.support.waiting import wait_until
from tests.web_django.asgi import answer_of, request
from tests.web_django.project import Project, in_thread
from tests.web_django.site import Site


@pytest.mark.project(pool={"max_size": 2, "timeout": 30})
def test_threads_that_end_without_close_cost_no_slot() -> None:
    from django.db import connection, connections

    from tests.web_django.shelf.models import Book

    kept: list[Any] = []

    def query() -> int:
        # That they are not collected must not matter: it is the thread's end that counts.
        kept.extend((connections["default"], threading.current_thread()))
        return Book.objects.count()

    for _ in range(4):
        assert in_thread(query) == 0
    assert Book.objects.count() == 0
    connection.close()
    assert connection.pool.get_stats()["pool_size"] <= 2
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1, "timeout": 30})
def test_a_generator_left_early_costs_no_connection_whatever_is_open_in_it(
    project: Project, site: Site
) -> None:
    from django.db import connection, transaction
    from django.http import StreamingHttpResponse

    from tests.web_django.shelf.models import Book

    def in_atomic() -> Any:
        with transaction.atomic():
            Book.objects.create(title="undone")
            yield "row"

    def in_a_cursor() -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 3)")
            yield from cursor

    def in_an_iterator() -> Any:
        yield from Book.objects.iterator(1)

    Book.objects.create(title="kept")
    for generator in (in_atomic, in_a_cursor, in_an_iterator):
        for _ in generator():
            break
        site.view("stream")(lambda request, rows=generator: StreamingHttpResponse(rows()))
        _, response = site.start("stream")
        next(iter(response))
        response.close()  # the client has gone
    assert project.titles() == ["kept"]
    connection.close()
    assert connection.pool.get_stats()["connections_num"] == 1
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1})
def test_a_lent_connection_keeps_no_thread_alive() -> None:
    from django.db import connections

    borrowed: list[Any] = []

    def borrow() -> None:
        connections["default"].ensure_connection()
        borrowed.append(connections["default"])

    thread = threading.Thread(target=borrow)
    thread.start()
    thread.join()
    known = weakref.ref(thread)
    del thread
    gc.collect()
    assert borrowed[0].connection is not None
    assert known() is None


@pytest.mark.project(pool={"max_size": 1, "timeout": 30})
def test_a_wrapper_that_was_collected_costs_no_slot() -> None:
    from django.db import connection

    copy = connection.copy()
    copy.inc_thread_sharing()
    copy.ensure_connection()
    del copy
    gc.collect()
    connection.ensure_connection()
    connection.close()
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1, "timeout": 0.3})
def test_a_living_thread_keeps_its_connection() -> None:
    from django.db import OperationalError, connection

    open_one(connection.pool)
    held, done = threading.Event(), threading.Event()
    seen: list[Any] = []

    def hold() -> None:
        with connection.cursor() as cursor:
            held.set()
            done.wait(PATIENCE)
            cursor.execute("SELECT 1")
            seen.extend(cursor.fetchone())
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    with pytest.raises(OperationalError):
        connection.ensure_connection()
    done.set()
    thread.join()
    assert seen == [1]


@pytest.mark.project(pool={"max_size": 1, "timeout": 0.3})
def test_a_shared_wrapper_is_not_swept_when_its_thread_ends() -> None:
    from django.db import OperationalError, connection, connections

    open_one(connection.pool)
    shared = []

    def borrow() -> None:
        wrapper = connections["default"]
        wrapper.inc_thread_sharing()
        wrapper.ensure_connection()
        shared.append(wrapper)

    in_thread(borrow)
    with pytest.raises(OperationalError):
        connection.ensure_connection()
    with shared[0].cursor() as cursor:
        cursor.execute("SELECT 1")
    shared[0].close()
    connection.ensure_connection()
    connection.close()


# Django leaves the request's body file open in both cases.
@pytest.mark.filterwarnings("ignore:Unclosed file", "ignore:Exception ignored in.*Spooled")
@pytest.mark.project(pool={"max_size": 2, "timeout": 30})
def test_asgi_clients_that_go_away_cost_no_slot(site: Site, project: Project) -> None:
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    async def closed(message: Any) -> None:
        raise OSError("the client has gone")

    async def run() -> list[int]:
        for _ in range(4):
            with pytest.raises(OSError, match="gone"):
                await request("count", closed)
        return [await answer_of("count") for _ in range(2)]

    assert asyncio.run(run()) == [200, 200]
    gc.collect()
    assert project.sessions() <= 2


@pytest.mark.filterwarnings("ignore:Unclosed file", "ignore:Exception ignored in.*Spooled")
@pytest.mark.project(pool={"max_size": 2, "timeout": 30})
def test_streaming_generators_that_raise_cost_no_slot(site: Site, project: Project) -> None:
    from django.http import HttpResponse, StreamingHttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    @site.view("stream")
    def stream(request: Any) -> Any:
        def rows() -> Any:
            yield str(Book.objects.count())
            raise RuntimeError("in the middle of the body")

        return StreamingHttpResponse(rows())

    async def run() -> list[int]:
        for _ in range(4):
            with pytest.raises(RuntimeError, match="middle"):
                await answer_of("stream")
        return [await answer_of("count") for _ in range(2)]

    with pytest.warns(Warning, match="StreamingHttpResponse"):
        assert asyncio.run(run()) == [200, 200]
    gc.collect()
    assert project.sessions() <= 2


@pytest.mark.project(pool={"max_size": 2, "timeout": 30})
def test_asgi_requests_share_the_pool_although_each_has_a_thread_of_its_own(
    site: Site, project: Project
) -> None:
    from django.db import connection
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    async def run() -> list[int]:
        one_by_one = [await answer_of("count") for _ in range(12)]
        together = await asyncio.gather(*(answer_of("count") for _ in range(12)))
        return [*one_by_one, *together]

    assert asyncio.run(run()) == [200] * 24
    assert project.sessions() <= 2
    pool = connection.pool
    wait_until(lambda: pool.get_stats()["pool_available"] == pool.get_stats()["pool_size"])
    inside.audit(pool)
