"""What receivers of a request's signals query goes back with the request, whichever comes last."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support import inside
from tests.web_django.asgi import answer_of
from tests.web_django.site import Site

POOL = {"max_size": 4, "timeout": 30}


def _held() -> int:
    from django.db import connection

    stats = connection.pool.get_stats()
    return int(stats["pool_size"] - stats["pool_available"])


def _requests_in_threads(site: Site) -> list[Any]:
    """Serve 24 requests in eight threads that live on, over four connections."""
    from django.db import connection

    start = threading.Barrier(8)

    def serve(_: int) -> list[Any]:
        start.wait(30)
        return [(site.get("").status, connection.connection) for _ in range(3)]

    with ThreadPoolExecutor(8) as executor:
        return [status for each in executor.map(serve, range(8)) for status in each]


@pytest.mark.project(pool=POOL)
def test_a_receiver_that_comes_after_djangos_own_keeps_no_connection(site: Site) -> None:
    from django.core.signals import request_finished
    from django.db import connection
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    seen: list[int] = []

    def audit(**kwargs: Any) -> None:
        seen.append(Book.objects.count())

    site.view("")(lambda request: HttpResponse("no query"))
    request_finished.connect(audit)
    assert _requests_in_threads(site) == [(200, None)] * 24
    assert seen == [0] * 24
    inside.audit(connection.pool)


@pytest.mark.project(pool=POOL)
def test_neither_does_an_asynchronous_one_nor_one_that_raises(site: Site) -> None:
    """Django calls the asynchronous ones after all the others."""
    from django.core.signals import request_finished, request_started
    from django.db import connection
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    async def audit(**kwargs: Any) -> None:
        await Book.objects.acount()

    def fail(**kwargs: Any) -> None:
        Book.objects.count()
        raise ZeroDivisionError

    site.view("")(lambda request: HttpResponse(str(Book.objects.count())))
    request_finished.connect(audit)
    assert site.get("").status == 200
    assert _held() == 0
    for signal in (request_finished, request_started):
        signal.connect(fail)
        with pytest.raises(ZeroDivisionError):
            site.get("")
        signal.disconnect(fail)
        assert _held() == 0
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1, "timeout": 30})
def test_nor_does_one_of_a_request_under_asgi_whoever_ends_that(site: Site) -> None:
    from django.core.signals import request_finished
    from django.db import connection
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    async def audit(**kwargs: Any) -> None:
        await Book.objects.acount()

    def audit_too(**kwargs: Any) -> None:
        Book.objects.count()

    async def view(request: Any) -> HttpResponse:
        return HttpResponse("no query")

    site.view("")(view)
    site.view("hangs")(_hangs)
    request_finished.connect(audit)
    request_finished.connect(audit_too)

    async def client_goes() -> None:
        gone = asyncio.Event()
        _begun.clear()
        task = asyncio.create_task(_request_until(gone))
        while not _begun:
            await asyncio.sleep(0.01)
        gone.set()
        await task

    async def serve() -> None:
        for _ in range(3):
            assert await answer_of("") == 200
            assert _held() == 0
            await client_goes()
            assert _held() == 0

    asyncio.run(serve())
    assert connection.pool.get_stats()["connections_num"] == 1
    inside.audit(connection.pool)


_begun: list[bool] = []


async def _hangs(request: Any) -> Any:
    _begun.append(True)
    await asyncio.sleep(3600)


async def _request_until(gone: asyncio.Event) -> None:
    """Make a request whose client goes away then."""
    from django.core.handlers.asgi import ASGIHandler

    first = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if first:
            return first.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody reads it."""

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/hangs",
        "query_string": b"",
        "headers": [],
    }
    await ASGIHandler()(scope, receive, send)


@pytest.mark.project(pool={"max_size": 2})
def test_where_only_djangos_own_receivers_are_no_request_pays_for_a_look(site: Site) -> None:
    from django.core.signals import request_finished, request_started
    from django.dispatch import Signal
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    site.view("")(lambda request: HttpResponse(str(Book.objects.count())))
    assert site.get("") == (200, "0")
    for signal in (request_finished, request_started):
        assert type(signal).send is Signal.send
        signal.connect(_hangs)
        assert type(signal).send is not Signal.send
        signal.disconnect(_hangs)
    assert site.get("") == (200, "0")


@pytest.mark.project(pool={"max_size": 2})
def test_djangos_test_client_keeps_its_connection(site: Site) -> None:
    """It takes Django's receiver off for each request: a TestCase has its transaction open."""
    from django.core.signals import request_finished
    from django.db import connection, transaction
    from django.http import HttpResponse
    from django.test import Client

    from tests.web_django.shelf.models import Book

    def audit(**kwargs: Any) -> None:
        Book.objects.create(title="audited")

    site.view("")(lambda request: HttpResponse("no query"))
    request_finished.connect(audit)
    with transaction.atomic():
        assert Client().get("/").status_code == 200
        assert Book.objects.count() == 1
    assert connection.connection is not None
    Book.objects.all().delete()
    connection.close()
    assert Client().get("/").status_code == 200
    assert connection.connection is not None
    connection.close()


@pytest.mark.project(pool={"max_size": 1})
def test_a_bound_connect_that_was_kept_from_before_works_on(site: Site) -> None:
    """Django's tests keep it for their clean-up, and connect other receivers meanwhile."""
    from django.core.signals import request_finished, request_started

    site.view("")(_answer)
    for signal in (request_finished, request_started):
        connect = signal.connect
        signal.connect(_audit)
        connect(_audit_too)
    site.get("")
    assert _seen == ["one", "two", "one", "two"]
    for signal in (request_finished, request_started):
        signal.disconnect(_audit)
        signal.disconnect(_audit_too)
    assert _held() == 0


_seen: list[str] = []


def _audit(**kwargs: Any) -> None:
    _seen.append("one")


def _audit_too(**kwargs: Any) -> None:
    _seen.append("two")


def _answer(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse("no query")
