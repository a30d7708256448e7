"""Connections given back before Django would: `released`, and `ReleaseBeforeResponse`."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support import inside
from tests.support.waiting import wait_until
from tests.web_django.asgi import answer_of
from tests.web_django.project import Project
from tests.web_django.site import Site

RELEASE = {"MIDDLEWARE": ["dbpool_django.middleware.ReleaseBeforeResponse"]}


def _held() -> int:
    from django.db import connection

    stats = connection.pool.get_stats()
    return int(stats["pool_size"] - stats["pool_available"])


@pytest.mark.project(pool={"max_size": 2, "timeout": 30})
def test_executor_threads_give_back_what_a_released_function_took() -> None:
    from django.db import connection

    from dbpool_django import released
    from tests.web_django.shelf.models import Book

    together = threading.Barrier(2)

    @released
    def count(number: int) -> int:
        """Count."""
        found = Book.objects.count()
        together.wait(30)
        return found + number

    assert (count.__name__, count.__doc__) == ("count", "Count.")
    with ThreadPoolExecutor(2) as executor:
        assert list(executor.map(count, range(6))) == list(range(6))
        assert _held() == 0
        assert Book.objects.count() == 0
    connection.close()


@pytest.mark.project(pool={"max_size": 1, "timeout": 30})
def test_a_released_function_that_raises_leaves_nothing(project: Project) -> None:
    from django.db import transaction

    from dbpool_django import released
    from tests.web_django.shelf.models import Book

    @released
    def write() -> None:
        transaction.set_autocommit(False)
        Book.objects.create(title="never committed")
        raise LookupError

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(LookupError):
            executor.submit(write).result()
        assert _held() == 0
    assert project.titles() == []


@pytest.mark.project(pool={"max_size": 1, "timeout": 30})
def test_released_leaves_a_callers_transaction_alone(project: Project) -> None:
    from django.db import connection, transaction

    from dbpool_django import released
    from tests.web_django.shelf.models import Book

    @released
    def write(title: str) -> None:
        Book.objects.create(title=title)

    with transaction.atomic():
        write("one")
        write("two")
    connection.close()
    assert project.titles() == ["one", "two"]


@pytest.mark.project(tables=False)
def test_released_refuses_a_coroutine_function() -> None:
    from dbpool_django import released

    async def view() -> None: ...

    with pytest.raises(TypeError, match="coroutine"):
        released(view)


@pytest.mark.project(pool={"max_size": 2, "timeout": 30})
def test_asgi_code_in_threads_that_live_on_costs_no_slot(site: Site) -> None:
    from asgiref.sync import sync_to_async
    from django.http import HttpResponse

    from dbpool_django import released
    from tests.web_django.shelf.models import Book

    @site.view("threads")
    async def threads(request: Any) -> Any:
        count = sync_to_async(released(Book.objects.count), thread_sensitive=False)
        return HttpResponse(str(await count()))

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    async def run() -> list[int]:
        together = await asyncio.gather(*(answer_of("threads") for _ in range(6)))
        return [*together, await answer_of("count")]

    assert asyncio.run(run()) == [200] * 7


@pytest.mark.project(pool={"max_size": 1}, settings=RELEASE)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_answer_holds_nothing_when_its_first_byte_leaves(site: Site, asynchronous: bool) -> None:
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    if asynchronous:
        held: list[int] = []
        assert asyncio.run(answer_of("count", lambda: held.append(_held()))) == 200
        assert set(held) == {0}
        return
    status, response = site.start("count")
    assert (status, _held()) == (200, 0)
    response.close()


@pytest.mark.project(pool={"max_size": 1})
def test_without_the_middleware_an_answer_holds_its_connection_to_the_end(site: Site) -> None:
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    _, response = site.start("count")
    assert _held() == 1
    response.close()
    assert _held() == 0


@pytest.mark.project(pool={"max_size": 1}, settings=RELEASE)
def test_a_stream_takes_a_connection_only_while_it_queries(site: Site) -> None:
    from django.http import StreamingHttpResponse

    from tests.web_django.shelf.models import Book

    Book.objects.bulk_create(Book(title=str(number)) for number in range(5))

    @site.view("stream")
    def stream(request: Any) -> Any:
        Book.objects.count()

        def rows() -> Any:
            yield "begin "
            yield str(Book.objects.count())

        return StreamingHttpResponse(rows())

    _, response = site.start("stream")
    body = iter(response)
    assert (next(body), _held()) == (b"begin ", 0)
    assert (next(body), _held()) == (b"5", 1)
    response.close()
    assert _held() == 0


@pytest.mark.project(pool={"max_size": 1}, settings=RELEASE)
def test_a_cursor_that_the_body_reads_from_stays_open(site: Site) -> None:
    from itertools import chain

    from django.http import StreamingHttpResponse

    from tests.web_django.shelf.models import Book

    Book.objects.bulk_create(Book(title=str(number)) for number in range(5))

    @site.view("stream")
    def stream(request: Any) -> Any:
        titles = Book.objects.order_by("id").values_list("title", flat=True).iterator(2)
        return StreamingHttpResponse(chain([next(titles)], titles))

    assert site.get("stream") == (200, "01234")
    assert _held() == 0


@pytest.mark.project(pool={"max_size": 1}, settings=RELEASE)
@pytest.mark.parametrize("raw", [False, True])
def test_so_does_one_without_a_name_on_the_server(site: Site, raw: bool) -> None:
    """It holds its whole result; nothing else than it tells that the connection is in use."""
    from django.db import connection
    from django.http import StreamingHttpResponse

    @site.view("stream")
    def stream(request: Any) -> Any:
        connection.ensure_connection()
        cursor = connection.create_cursor() if raw else connection.cursor()
        cursor.execute("SELECT generate_series(0, 4)")
        return StreamingHttpResponse(str(number) for (number,) in cursor)

    assert site.get("stream") == (200, "01234")
    assert _held() == 0


@pytest.mark.project(pool={"max_size": 1}, settings=RELEASE)
def test_a_session_that_was_changed_stays_for_a_stream_alone(site: Site) -> None:
    from django.db import connection
    from django.http import HttpResponse, StreamingHttpResponse

    def answer(request: Any, kind: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('app.tenant', 'ours', false)")

        def rows() -> Any:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('app.tenant')")
                yield cursor.fetchone()[0]

        return kind(rows())

    site.view("stream")(lambda request: answer(request, StreamingHttpResponse))
    site.view("whole")(lambda request: answer(request, HttpResponse))
    assert site.get("stream").text == "ours"
    assert _held() == 0
    status, response = site.start("whole")
    assert (status, _held()) == (200, 0)
    assert b"".join(response) == b"ours"
    response.close()
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1}, settings=RELEASE)
@pytest.mark.parametrize("begin", ["BEGIN", "autocommit off"])
def test_a_transaction_that_is_open_stays_until_the_end(site: Site, begin: str) -> None:
    from django.db import connection, transaction
    from django.http import HttpResponse

    @site.view("open")
    def open_(request: Any) -> Any:
        with connection.cursor() as cursor:
            if begin == "BEGIN":
                cursor.execute(begin)
            else:
                transaction.set_autocommit(False)
                cursor.execute("SELECT 1")
        return HttpResponse("ok")

    _, response = site.start("open")
    assert _held() == 1
    response.close()
    assert _held() == 0


@pytest.mark.project(pool={"max_size": 1}, settings=RELEASE)
def test_the_transaction_around_a_tests_client_stays(site: Site) -> None:
    """Also one in which no statement has been sent yet."""
    from django.db import transaction
    from django.http import HttpResponse
    from django.test import Client

    from tests.web_django.shelf.models import Book

    site.view("plain")(lambda request: HttpResponse("plain"))
    with transaction.atomic():
        assert Client().get("/plain").content == b"plain"
        assert _held() == 1
        assert Book.objects.count() == 0


@pytest.mark.project(pool={"max_size": 4, "timeout": 10}, settings=RELEASE)
def test_eight_slow_readers_hold_no_connection(site: Site) -> None:
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    size = 32 * 1024 * 1024  # more than the sockets of both sides take

    @site.view("large")
    def large(request: Any) -> Any:
        return HttpResponse(b"x" * (size + Book.objects.count()))

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
    server.daemon_threads = True
    server.set_app(get_wsgi_application())
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    readers = []
    try:
        for _ in range(8):
            reader = socket.create_connection(server.server_address[:2], timeout=20)
            readers.append(reader)
            reader.sendall(b"GET /large HTTP/1.0\r\nHost: test\r\n\r\n")
        for reader in readers:  # each has its first bytes, and nobody reads on
            assert reader.recv(16).startswith(b"HTTP/1.")
        wait_until(lambda: _held() == 0, message="no connection held")
        assert site.get("count") == (200, "0")
    finally:
        for reader in readers:
            reader.close()
        server.shutdown()
        server.server_close()
        serving.join()
