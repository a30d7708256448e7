"""A Django site with one view and one query, in a process of its own (`python -m … NAME WHERE`).

It reads a line of JSON with what to measure and answers with a line of JSON:

    {"what": "requests", "count": 100}      one thread; µs per request
    {"what": "checkouts", "count": 100}     take a connection and give it back; µs each
    {"what": "crowd", "seconds": 1.0}       THREADS threads; requests per second, p50, p99 in ms
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

from benchmarks._django_variants import VARIANTS, Variant

__all__ = ["THREADS", "urlpatterns"]

THREADS = 16

urlpatterns: list[Any] = []  # this module is the site's ROOT_URLCONF


def _set_up(variant: Variant, where: dict[str, Any]) -> None:
    if variant.driver == "psycopg2":
        sys.modules["psycopg"] = None  # type: ignore[assignment]  # or Django would take it
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={"default": variant.database(where)},
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="only for figures",
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    django.setup()
    from django.db import connection
    from django.http import HttpResponse
    from django.urls import path

    taken = connection.Database.__name__
    if taken != variant.driver:
        raise RuntimeError(f"Django takes {taken} where {variant.driver} is to be measured")

    def view(request: Any) -> HttpResponse:
        with connection.cursor() as cursor:
            cursor.execute("SELECT name FROM item WHERE id = %s", [1])
            return HttpResponse(cursor.fetchone()[0])

    urlpatterns.append(path("", view))


class Site:
    """The site as a WSGI server sees it."""

    def __init__(self, pooled: bool) -> None:
        from django.core.handlers.wsgi import WSGIHandler

        self._handler = WSGIHandler()
        self._pooled = pooled
        self._crowd: _Crowd | None = None

    def get(self) -> None:
        """Make one request; read and close the answer, as a server does."""
        status = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/",
            "SERVER_NAME": "bench",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
        }
        response = self._handler(environ, lambda line, headers, *_: status.append(line))
        body = b"".join(response)
        response.close()
        if (status, body) != (["200 OK"], b"a"):
            raise RuntimeError(f"{status}: {body!r}")

    def requests(self, count: int) -> dict[str, float]:
        return _each(self.get, count)

    def checkouts(self, count: int) -> dict[str, float]:
        from django.db import connection

        def checkout() -> None:
            connection.ensure_connection()
            connection.close()

        return _each(checkout, count)

    def crowd(self, seconds: float) -> dict[str, float]:
        if self._crowd is None:
            self._crowd = _Crowd(self.get)
        busy = time.process_time()
        taken, took = self._crowd.work(seconds)
        busy = time.process_time() - busy
        cuts = quantiles(taken, n=100)
        return {
            "rate": len(taken) / took,
            "p50": cuts[49] * 1000,
            "p99": cuts[98] * 1000,
            "cpu": busy / len(taken) * 1e6,
        }


def _each(step: Callable[[], object], count: int) -> dict[str, float]:
    begin, busy = time.perf_counter(), time.process_time()
    for _ in range(count):
        step()
    took, busy = time.perf_counter() - begin, time.process_time() - busy
    return {"micros": took / count * 1e6, "cpu": busy / count * 1e6}


class _Crowd:
    """Threads that live as long as the process, as a server's do: so do connections of theirs."""

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._until = 0.0
        self._begin = threading.Barrier(THREADS + 1)
        self._end = threading.Barrier(THREADS + 1)
        self._taken: list[list[float]] = [[] for _ in range(THREADS)]
        for mine in self._taken:
            threading.Thread(target=self._run, args=(mine,), daemon=True).start()
        self.work(0.1)  # connections are open

    def work(self, seconds: float) -> tuple[list[float], float]:
        """Return what each request took, and how long it all took, in seconds."""
        for mine in self._taken:
            mine.clear()
        begin = time.perf_counter()
        self._until = begin + seconds
        self._begin.wait()
        self._end.wait()
        took = time.perf_counter() - begin
        return [value for mine in self._taken for value in mine], took

    def _run(self, mine: list[float]) -> None:
        clock = time.perf_counter
        while True:
            self._begin.wait()
            now = clock()
            try:
                while True:  # at least once
                    self._step()
                    now, before = clock(), now
                    mine.append(now - before)
                    if now >= self._until:
                        break
            except BaseException:
                self._end.abort()  # the figures would be of fewer threads
                raise
            self._end.wait()


def main(name: str, where: str) -> None:
    (variant,) = (one for one in VARIANTS if one.name == name)
    _set_up(variant, json.loads(where))
    site = Site(variant.pooled)
    site.get()
    print("ready", flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        found = getattr(site, wanted.pop("what"))(**wanted)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    # By its own name: Django imports the URLs from there.
    from benchmarks import _django_site

    _django_site.main(*sys.argv[1:])
