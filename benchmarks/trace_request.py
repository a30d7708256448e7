"""How far a request travels through our code: calls, files, and how often the file changes.

    python benchmarks/trace_request.py                 Flask and Django, on SQLite and psycopg2
    python benchmarks/trace_request.py flask psycopg2  one of them
    python benchmarks/trace_request.py flask sqlite --calls    each call, in its order

Counted with `sys.setprofile` on the second hundred of requests of one thread with one query each:
Python calls into dbpool, dbpool_flask and dbpool_django. Nothing here is a time, so each run says
the same.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from testproject.postgres import PostgresServer  # noqa: E402

FRAMEWORKS, DRIVERS = ("flask", "django"), ("sqlite", "psycopg2")
WARM = 100


def flask_request(url: str) -> Callable[[], None]:
    """Return what sends one request to a Flask app."""
    from flask import Flask

    from dbpool_flask import DBPool

    app = Flask(__name__)
    app.config["DBPOOL_URL"] = url
    db = DBPool(app)

    @app.get("/")
    def view() -> str:
        cursor = db.connection.cursor()
        cursor.execute("SELECT 1")
        return str(cursor.fetchall())

    environ = app.test_request_context("/").request.environ
    return lambda: drain(app.wsgi_app, environ)


def django_request(url: str) -> Callable[[], None]:
    """Return what sends one request to a Django site; once in a process."""
    from urllib.parse import urlsplit

    from django.conf import settings

    where = urlsplit(url)
    if where.scheme == "sqlite":
        database = {"ENGINE": "dbpool_django.backends.sqlite3", "NAME": where.path}
    else:
        database = {
            "ENGINE": "dbpool_django.backends.postgresql",
            "NAME": where.path[1:], "HOST": where.hostname, "PORT": where.port,
            "USER": where.username, "PASSWORD": where.password or "",
        }  # fmt: skip
    settings.configure(
        DATABASES={"default": database}, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[]
    )
    import django
    from django.core.wsgi import get_wsgi_application
    from django.db import connection
    from django.http import HttpResponse
    from django.test import RequestFactory
    from django.urls import path

    django.setup()

    def view(request: Any) -> HttpResponse:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return HttpResponse(str(cursor.fetchall()))

    globals()["urlpatterns"] = [path("", view)]
    app, environ = get_wsgi_application(), RequestFactory().get("/").environ
    return lambda: drain(app, environ)


def drain(app: Any, environ: dict[str, Any]) -> None:
    body = app(dict(environ), lambda *args: None)
    for _ in body:
        pass
    body.close()


def calls_of(request: Callable[[], None]) -> list[tuple[str, str]]:
    """Return file and function of each call into our code that one request makes."""
    found: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{ROOT}/dbpool"):
            name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)  # from 3.11 on
            found.append((path[len(str(ROOT)) + 1 :], name))

    for _ in range(WARM):
        request()
    sys.setprofile(note)
    request()
    sys.setprofile(None)
    return found


def trace(framework: str, driver: str, *, calls: bool) -> None:
    """Print what one request is like."""
    make = flask_request if framework == "flask" else django_request
    if driver == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            found = calls_of(make(f"sqlite:///{folder}/trace.sqlite3"))
    else:
        with PostgresServer() as server:
            found = calls_of(make(server.url()))
    if calls:
        print("\n".join(f"{file}  {name}" for file, name in found))
    files = [file for file, _ in found]
    changes = sum(a != b for a, b in itertools.pairwise(files))
    print(
        f"{framework:8} {driver:9} {len(found):4} calls {len(set(files)):4} files "
        f"{changes:4} changes of file",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("framework", nargs="?", choices=FRAMEWORKS)
    parser.add_argument("driver", nargs="?", choices=DRIVERS)
    parser.add_argument("--calls", action="store_true", help="print each call")
    options = parser.parse_args()
    if options.framework and options.driver:
        trace(options.framework, options.driver, calls=options.calls)
        return
    # Django can be set up once in a process.
    for framework, driver in itertools.product(FRAMEWORKS, DRIVERS):
        if options.framework in (None, framework):
            subprocess.run([sys.executable, __file__, framework, driver], check=True)


if __name__ == "__main__":
    main()
