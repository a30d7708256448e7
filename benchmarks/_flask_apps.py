"""The Flask apps that bench_flask compares: one view each, one query in it, written as people do.

Each is made in a process of its own, which then answers for it (`python -m
benchmarks._flask_apps NAME DSN`): it reads a line of JSON with the arguments of `_Calls.many`, has
that many threads call the app for that long, and prints what it measured.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import threading
from collections.abc import Callable, Iterable
from statistics import quantiles
from time import perf_counter, process_time
from typing import Any

import psycopg2
import psycopg2.pool
from flask import Flask, g
from psycopg2.extensions import TRANSACTION_STATUS_INERROR as INERROR
from werkzeug.test import EnvironBuilder

__all__ = ["APPS", "PACKAGES"]

CONNECTIONS = 4
QUERY = "SELECT name FROM item WHERE id = %s"


def no_database(app: Flask, dsn: str) -> None:
    """What Flask takes by itself."""

    @app.get("/")
    def view() -> str:
        return "a"


def connects(app: Flask, dsn: str) -> None:
    """A connection of its own for each request."""

    def connection() -> Any:
        if "db" not in g:
            g.db = psycopg2.connect(dsn)
        return g.db

    @app.teardown_appcontext
    def close(error: BaseException | None) -> None:
        db = g.pop("db", None)
        if db is not None:
            try:
                if error is None:
                    db.commit()
            finally:
                db.close()

    _with_cursor(app, connection)


def psycopg2_pool(app: Flask, dsn: str) -> None:
    """psycopg2's pool in `g`. It raises where a thread should wait: a semaphore goes before it."""
    pool, free, connection = _psycopg2_pool(dsn)

    @app.teardown_appcontext
    def put_back(error: BaseException | None) -> None:
        db = g.pop("db", None)
        if db is not None:
            try:
                if error is None:
                    db.commit()
                else:
                    db.rollback()
            finally:
                pool.putconn(db)
                free.release()

    _with_cursor(app, connection)


def psycopg2_pool_with_care(app: Flask, dsn: str) -> None:
    """The same, but a commit that fails is told, and an answer of 4xx keeps nothing.

    Still without a look at the connection before it is lent, which a restart of the server asks
    for, and without anything for streams.
    """
    pool, free, connection = _psycopg2_pool(dsn)

    @app.after_request
    def commit(response: Any) -> Any:
        db = g.get("db")
        if db is not None and response.status_code < 400:
            if db.get_transaction_status() == INERROR:
                raise RuntimeError("the view went on after a database error")
            db.commit()
        return response

    @app.teardown_appcontext
    def put_back(error: BaseException | None) -> None:
        db = g.pop("db", None)
        if db is not None:
            try:
                db.rollback()  # sends nothing after a commit
            finally:
                pool.putconn(db)
                free.release()

    _with_cursor(app, connection)


def _psycopg2_pool(dsn: str) -> tuple[Any, threading.BoundedSemaphore, Callable[[], Any]]:
    pool = psycopg2.pool.ThreadedConnectionPool(CONNECTIONS, CONNECTIONS, dsn)
    free = threading.BoundedSemaphore(CONNECTIONS)

    def connection() -> Any:
        if "db" not in g:
            free.acquire()
            try:
                g.db = pool.getconn()
            except BaseException:
                free.release()
                raise
        return g.db

    return pool, free, connection


def psycopg_pool(app: Flask, dsn: str) -> None:
    """psycopg_pool in `g`."""
    from psycopg_pool import ConnectionPool

    pool = ConnectionPool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, open=True)
    pool.wait()

    def connection() -> Any:
        if "db" not in g:
            g.db = pool.getconn()
        return g.db

    @app.teardown_appcontext
    def put_back(error: BaseException | None) -> None:
        db = g.pop("db", None)
        if db is not None:
            try:
                if error is None:
                    db.commit()
                else:
                    db.rollback()
            finally:
                pool.putconn(db)

    _with_cursor(app, connection)


def flask_sqlalchemy(app: Flask, dsn: str) -> None:
    from flask_sqlalchemy import SQLAlchemy

    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = _engine(dsn)
    _with_session(app, SQLAlchemy(app))


def flask_sqlalchemy_lite(app: Flask, dsn: str) -> None:
    from flask_sqlalchemy_lite import SQLAlchemy

    options = {"url": "postgresql+psycopg2://", **_engine(dsn)}
    app.config["SQLALCHEMY_ENGINES"] = {"default": options}
    _with_session(app, SQLAlchemy(app))


def dbpool(app: Flask, dsn: str) -> None:
    db = _dbpool(app, dsn, "psycopg2")
    _with_cursor(app, lambda: db.connection)


def dbpool_psycopg(app: Flask, dsn: str) -> None:
    db = _dbpool(app, dsn, "psycopg")
    _with_cursor(app, lambda: db.connection)


def dbpool_autocommit(app: Flask, dsn: str) -> None:
    """For a view that only reads: neither BEGIN nor COMMIT, one round trip instead of three."""
    db = _dbpool(app, dsn, "psycopg2")
    _with_cursor(app, lambda: db.connection, db.autocommit)


def _dbpool(app: Flask, dsn: str, driver: str) -> Any:
    from dbpool_flask import DBPool

    app.config["DBPOOL_URL"] = dsn
    app.config["DBPOOL_OPTIONS"] = {"max_size": CONNECTIONS, "driver": driver}
    return DBPool(app)


def _with_cursor(
    app: Flask, connection: Callable[[], Any], decorate: Callable[..., Any] = lambda view: view
) -> None:
    @app.get("/")
    @decorate
    def view() -> str:
        with connection().cursor() as cursor:
            cursor.execute(QUERY, (1,))
            name: str = cursor.fetchone()[0]
        return name


def _with_session(app: Flask, db: Any) -> None:
    from sqlalchemy import text

    query = text("SELECT name FROM item WHERE id = :id")

    @app.get("/")
    def view() -> str:
        name: str = db.session.execute(query, {"id": 1}).scalar_one()
        db.session.commit()
        return name


def _engine(dsn: str) -> dict[str, Any]:
    return {
        "pool_size": CONNECTIONS,
        "max_overflow": 0,
        "creator": lambda: psycopg2.connect(dsn),
    }


APPS: dict[str, Callable[[Flask, str], None]] = {
    "no database": no_database,
    "dbpool": dbpool,
    "psycopg2.pool by hand": psycopg2_pool,
    "the same with care": psycopg2_pool_with_care,
    "dbpool, autocommit view": dbpool_autocommit,
    "dbpool on psycopg 3": dbpool_psycopg,
    "psycopg_pool by hand": psycopg_pool,
    "Flask-SQLAlchemy": flask_sqlalchemy,
    "Flask-SQLAlchemy-Lite": flask_sqlalchemy_lite,
    "psycopg2.connect each time": connects,
}
# What has to be installed for some of them.
PACKAGES = {
    "dbpool on psycopg 3": "psycopg",
    "psycopg_pool by hand": "psycopg_pool",
    "Flask-SQLAlchemy": "flask_sqlalchemy",
    "Flask-SQLAlchemy-Lite": "flask_sqlalchemy_lite",
}


# -- what runs in the process of one app


class _Calls:
    """Calls an app as a server does."""

    def __init__(self, app: Flask) -> None:
        self._app: Callable[[Any, Any], Iterable[bytes]] = app.wsgi_app
        self._environ = EnvironBuilder(path="/").get_environ()

    def one(self) -> float:
        """Make one request; return how long it took, in seconds."""
        status = ""

        def start_response(line: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal status
            status = line

        environ = self._environ.copy()
        started = perf_counter()
        answer = self._app(environ, start_response)
        body = b"".join(answer)
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        took = perf_counter() - started
        if (status, body) != ("200 OK", b"a"):
            raise AssertionError(f"{status}: {body!r}")
        return took

    def many(self, threads: int, seconds: float, rate: float | None = None) -> dict[str, float]:
        """Have threads make requests; return what they took in µs, and how many there were.

        Each calls again as soon as it is answered or, with `rate`, at random moments that make so
        many calls a second of all threads. Who comes late to such a moment has waited since then.
        """
        taken: list[list[float]] = [[] for _ in range(threads)]
        gate = threading.Barrier(threads + 1)
        over = threading.Event()

        def run(number: int) -> None:
            one, mine, is_over = self.one, taken[number], over.is_set
            chance = random.Random(number)
            gate.wait()
            due = perf_counter()
            while len(mine) < 2 or not is_over():  # two, however slow the machine is
                late = 0.0
                if rate is not None:
                    due += chance.expovariate(rate / threads)
                    late = max(perf_counter() - due, 0.0)
                    if not late:
                        over.wait(due - perf_counter())
                mine.append(late + one())

        crowd = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for thread in crowd:
            thread.start()
        gate.wait()
        started, spent = perf_counter(), process_time()
        over.wait(seconds)
        over.set()
        for thread in crowd:
            thread.join()
        took, spent = perf_counter() - started, process_time() - spent
        every = [value for mine in taken for value in mine]
        cuts = quantiles(every, n=100)
        return {
            "p50": cuts[49] * 1e6,
            "p99": cuts[98] * 1e6,
            "longest": max(every) * 1e6,
            "rate": len(every) / took,
            "processor": spent / len(every) * 1e6,
        }


def _answer(name: str, dsn: str) -> None:
    app = Flask("bench")
    APPS[name](app, dsn)
    calls = _Calls(app)
    calls.many(2 * CONNECTIONS, 0.5)  # connections open, caches warm
    calls.many(1, 0.2)
    gc.collect()
    print("ready", flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(calls.many(**wanted)), flush=True)


if __name__ == "__main__":
    _answer(*sys.argv[1:])
