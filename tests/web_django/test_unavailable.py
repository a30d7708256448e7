"""A request that gets no connection is answered with 503 by the middleware, whoever needed it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from testproject.postgres import PostgresServer
from tests.support.waiting import wait_until
from tests.web_django.project import database, is_inside
from tests.web_django.site import Site

MIDDLEWARE = ["dbpool_django.middleware.UnavailableMiddleware"]
HERE = "tests.web_django.test_unavailable"
IMPATIENT = {"max_size": 1, "timeout": 0.05}


def templates(**pages: str) -> list[dict[str, Any]]:
    """Return the setting for a project with these pages."""
    pages = {f"{name}.html": text for name, text in pages.items()}
    return [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", pages)]},
        }
    ]


@contextmanager
def exhausted() -> Iterator[None]:
    """Hold the pool's only connection."""
    from django.db import connection

    pool = connection.pool
    held = pool.getconn(timeout=20)
    try:
        yield
    finally:
        pool.putconn(held)


def ask(request: Any = None) -> Any:
    from django.db import connection
    from django.http import HttpResponse

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok")


def answer_to(site: Site, path: str) -> tuple[int, dict[str, str], str]:
    """Return status, headers and text."""
    _, response = site.start(path)
    try:
        return response.status_code, dict(response.headers), b"".join(response).decode()
    finally:
        response.close()


def heard() -> list[BaseException]:
    """Return a list that grows by each error that got_request_exception tells of."""
    import sys

    from django.core.signals import got_request_exception

    found: list[BaseException] = []

    def receive(**kwargs: Any) -> None:
        found.append(sys.exc_info()[1])  # type: ignore[arg-type]

    got_request_exception.connect(receive, weak=False)
    return found


@pytest.mark.project(tables=False, pool=IMPATIENT, settings={"MIDDLEWARE": MIDDLEWARE})
def test_an_exhausted_pool_is_a_503_with_retry_after(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    from django.db import OperationalError

    site.view("ask")(ask)
    errors = heard()
    with exhausted():
        status, headers, text = answer_to(site, "ask")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "Service Unavailable (503)" in text
    for secret in ("pool", "psycopg", "127.0.0.1", "dbname", "timeout"):
        assert secret not in f"{headers} {text}".lower()
    assert [type(error) for error in errors] == [OperationalError]
    (record,) = [record for record in caplog.records if record.name == "django.request"]
    assert record.levelno == logging.WARNING, "an error would be mailed to the admins"
    assert record.getMessage().startswith(
        "Service Unavailable: /ask: pool 'default': no connection"
    )
    assert answer_to(site, "ask")[0] == 200


@pytest.mark.project(tables=False, pool=IMPATIENT)
def test_without_the_middleware_it_is_djangos_500(site: Site) -> None:
    site.view("ask")(ask)
    with exhausted():
        assert answer_to(site, "ask")[0] == 500


@pytest.fixture
def server() -> Iterator[PostgresServer | None]:
    if not is_inside():
        yield None
        return
    with PostgresServer() as server:
        yield server


@pytest.mark.outage
@pytest.mark.project(tables=False, settings={"MIDDLEWARE": MIDDLEWARE})
def test_a_database_that_is_down_is_a_503(site: Site, server: PostgresServer) -> None:
    from django.db import connections

    settings = database(server.dsn(), {"down_wait": 0.05})
    connections["default"].settings_dict.update(settings)
    site.view("ask")(ask)
    assert site.get("ask").status == 200
    server.stop()
    for _ in range(3):
        status, headers, text = answer_to(site, "ask")
        assert status == 503
        assert 1 <= int(headers["Retry-After"]) <= 2
        assert str(server.port) not in text
    server.start()
    wait_until(lambda: site.get("ask").status == 200, 30, "served again")


@pytest.mark.project(
    tables=False,
    pool=IMPATIENT,
    settings={"MIDDLEWARE": MIDDLEWARE},
    database={"ATOMIC_REQUESTS": True},
)
def test_a_request_whose_transaction_cannot_begin_is_a_503(site: Site) -> None:
    site.view("ask")(ask)
    with exhausted():
        assert site.get("ask").status == 503


@pytest.mark.project(tables=False, pool=IMPATIENT, settings={"MIDDLEWARE": MIDDLEWARE})
@pytest.mark.parametrize("name", ["TooManyRequests", "PoolOverloaded", "PoolDown"])
def test_each_refusal_that_passes_by_itself_is_a_503(site: Site, name: str) -> None:
    import dbpool

    @site.view("raises")
    def raises(request: Any) -> Any:
        error = getattr(dbpool, name)("refused")  # as a pool that is not Django's raises it
        error.retry_after = error.next_attempt = 1.5
        raise error

    status, headers, _ = answer_to(site, "raises")
    assert (status, headers["Retry-After"]) == (503, "1" if name == "TooManyRequests" else "2")


def _other(request: Any, error: type[Exception]) -> Any:
    raise error


@pytest.mark.project(tables=False, settings={"MIDDLEWARE": MIDDLEWARE})
def test_other_errors_stay_djangos(site: Site) -> None:
    from django.db import OperationalError

    import dbpool

    for error in (KeyError, OperationalError, dbpool.ConnectFailed, dbpool.PoolClosed):
        site.view("raises")(lambda request, error=error: _other(request, error))
        assert answer_to(site, "raises")[0] == 500


# Whoever needed the connection


class Querying:
    """Middleware that queries, on the way in or out."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        if request.path == "/in":
            ask()
        response = self.get_response(request)
        if request.path == "/out":
            ask()
        return response


def own_500(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse("sorry", status=500)


@pytest.mark.project(
    tables=False, pool=IMPATIENT, settings={"MIDDLEWARE": [*MIDDLEWARE, f"{HERE}.Querying"]}
)
@pytest.mark.parametrize("path", ["in", "out"])
def test_other_middleware_that_gets_no_connection_is_a_503(site: Site, path: str) -> None:
    from django.http import HttpResponse

    from tests.web_django import site as urls

    site.view(path)(lambda request: HttpResponse("ok"))
    errors = heard()
    urls.handler500 = own_500  # type: ignore[attr-defined]
    with exhausted():
        status, headers, _ = answer_to(site, path)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert len(errors) == 1


class Failing:
    """Middleware with a bug that shows on a 503."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        response = self.get_response(request)
        if response.status_code == 503:
            raise KeyError("a bug")
        return response


@pytest.mark.project(
    tables=False, pool=IMPATIENT, settings={"MIDDLEWARE": [*MIDDLEWARE, f"{HERE}.Failing"]}
)
def test_a_bug_after_a_refusal_is_a_500(site: Site) -> None:
    site.view("ask")(ask)
    with exhausted():
        assert answer_to(site, "ask")[0] == 500


@pytest.mark.project(
    tables=False,
    pool=IMPATIENT,
    settings={
        "MIDDLEWARE": MIDDLEWARE,
        "TEMPLATES": templates(page="{% for x in rows %}{% endfor %}"),
    },
)
def test_a_template_that_gets_no_connection_is_a_503(site: Site) -> None:
    from django.template.response import TemplateResponse

    @site.view("page")
    def page(request: Any) -> Any:
        def rows() -> Iterator[int]:
            ask()
            yield 1

        return TemplateResponse(request, "page.html", {"rows": rows})

    with exhausted():
        assert answer_to(site, "page")[0] == 503


# Answers of the project's own


class Own:
    """Middleware that answers database errors itself."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)

    def process_exception(self, request: Any, error: Exception) -> Any:
        from django.http import HttpResponse

        return HttpResponse("mine", status=418)


@pytest.mark.project(
    tables=False, pool=IMPATIENT, settings={"MIDDLEWARE": [*MIDDLEWARE, f"{HERE}.Own"]}
)
def test_what_other_middleware_makes_of_the_error_counts(site: Site) -> None:
    site.view("ask")(ask)
    with exhausted():
        assert answer_to(site, "ask")[0] == 418


@pytest.mark.project(
    tables=False,
    pool=IMPATIENT,
    settings={"MIDDLEWARE": MIDDLEWARE, "TEMPLATES": templates(**{"503": "come back soon"})},
)
def test_the_page_is_the_projects_where_it_has_one(site: Site) -> None:
    site.view("ask")(ask)
    with exhausted():
        assert answer_to(site, "ask")[::2] == (503, "come back soon")


@pytest.mark.project(
    tables=False,
    pool=IMPATIENT,
    settings={"MIDDLEWARE": [*MIDDLEWARE, f"{HERE}.Querying"], "DEBUG": True},
)
def test_with_debug_the_page_is_djangos_with_its_traceback(site: Site) -> None:
    site.view("ask")(ask)
    site.view("in")(ask)
    with exhausted():
        for path in ("ask", "in"):
            status, _, text = answer_to(site, path)
            assert status == 500
            assert "Traceback" in text


@pytest.mark.project(
    tables=False,
    pool=IMPATIENT,
    settings={"MIDDLEWARE": MIDDLEWARE, "DEBUG_PROPAGATE_EXCEPTIONS": True},
)
def test_it_is_raised_where_django_raises(site: Site) -> None:
    from django.db import OperationalError

    site.view("ask")(ask)
    with exhausted(), pytest.raises(OperationalError):
        answer_to(site, "ask")


@pytest.mark.project(tables=False, pool=IMPATIENT, settings={"MIDDLEWARE": MIDDLEWARE})
def test_djangos_test_client_raises_it_as_any_error_unless_told_not_to(site: Site) -> None:
    from django.db import OperationalError
    from django.test import Client

    site.view("ask")(ask)
    with exhausted():
        with pytest.raises(OperationalError):
            Client().get("/ask")
        assert Client(raise_request_exception=False).get("/ask").status_code == 503


# ASGI


@pytest.mark.project(
    tables=False, pool=IMPATIENT, settings={"MIDDLEWARE": [*MIDDLEWARE, f"{HERE}.Querying"]}
)
@pytest.mark.parametrize("path", ["sync", "async", "in"])
def test_it_is_the_same_under_asgi(site: Site, path: str) -> None:
    from asgiref.sync import sync_to_async

    from tests.web_django.asgi import answer_of

    async def view(request: Any) -> Any:
        return await sync_to_async(ask)()

    site.view(path)(view if path == "async" else ask)
    errors = heard()
    with exhausted():
        assert asyncio.run(answer_of(path)) == 503
    assert len(errors) == 1


class QueryingLater:
    """Middleware that queries on the way in, in async code: what stands above it is async too."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        from asgiref.sync import markcoroutinefunction

        self.get_response = get_response
        markcoroutinefunction(self)  # type: ignore[type-var]

    async def __call__(self, request: Any) -> Any:
        from asgiref.sync import sync_to_async

        await sync_to_async(ask)()
        return await self.get_response(request)


@pytest.mark.project(
    tables=False, pool=IMPATIENT, settings={"MIDDLEWARE": [*MIDDLEWARE, f"{HERE}.QueryingLater"]}
)
def test_asynchronous_middleware_that_gets_no_connection_is_a_503(site: Site) -> None:
    from tests.web_django.asgi import answer_of

    site.view("ask")(ask)
    errors = heard()
    with exhausted():
        assert asyncio.run(answer_of("ask")) == 503
    assert len(errors) == 1
    assert asyncio.run(answer_of("ask")) == 200


# Under load: every caller is told, none waits for good


@pytest.mark.project(
    tables=False,
    pool={"max_size": 1, "max_waiting": 2, "timeout": 20},
    settings={"MIDDLEWARE": MIDDLEWARE},
)
def test_a_queue_that_is_full_is_a_503(site: Site) -> None:
    from django.db import connection

    site.view("ask")(ask)
    pool = connection.pool
    answers: list[int] = []

    def call() -> None:
        answers.append(site.get("ask").status)

    threads = [threading.Thread(target=call) for _ in range(6)]
    with exhausted():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) == 4, 20, lambda: f"{answers}, {pool!r}")
    for thread in threads:
        thread.join(30)
    assert sorted(answers) == [200] * 2 + [503] * 4
