"""A WSGI application on a pool, for gunicorn in the tests.

POOL_CONNINFO, POOL_DRIVER and POOL_SIZE say on what. With POOL_USED the pool is used when this is
imported, so in the master where it preloads. POOL_GREEN has psycopg2 wait as gevent wants it; with
POOL_PATCHED the monkey-patch comes first, as psycopg needs it: it looks for one at its import.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

if os.environ.get("POOL_PATCHED"):
    import gevent.monkey

    gevent.monkey.patch_all()

from dbpool import ConnectionPool

pool = ConnectionPool(
    os.environ["POOL_CONNINFO"],
    driver=os.environ["POOL_DRIVER"],
    max_size=int(os.environ["POOL_SIZE"]),
    timeout=60,
)
MASTER: list[int] = []


def backend(conn: Any) -> int:
    return int(_one(conn, "SELECT pg_backend_pid()"))


def _one(conn: Any, sql: str) -> Any:
    cursor = conn.cursor()
    cursor.execute(sql)
    return cursor.fetchone()[0]


if os.environ.get("POOL_USED"):
    held = pool.getconn()  # lent when the workers are forked
    with pool.connection() as conn:
        MASTER += [backend(held), backend(conn)]
        del conn
    # Another thread is at work with the pool when they are.
    threading.Thread(target=lambda: [use() for _ in range(200)], daemon=True).start()


def use() -> None:
    with pool.connection() as conn:
        _one(conn, "SELECT 1")


def green() -> None:
    """Have psycopg2 let other greenlets run; in the worker, after the monkey-patch."""
    from gevent.socket import wait_read, wait_write
    from psycopg2 import extensions

    def wait(conn: Any) -> None:
        while (state := conn.poll()) != extensions.POLL_OK:
            (wait_read if state == extensions.POLL_READ else wait_write)(conn.fileno())

    if extensions.get_wait_callback() is None:
        extensions.set_wait_callback(wait)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    query = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
    path = environ["PATH_INFO"]
    if path == "/up":
        body = "up"
    else:
        if os.environ.get("POOL_GREEN"):
            green()
        with pool.connection() as conn:
            token = int(query["token"])
            if path == "/lock":
                _one(conn, "SELECT pg_advisory_xact_lock_shared(4711) IS NULL")
            answer = _one(conn, f"SELECT {token}")
            body = json.dumps([os.getpid(), backend(conn), answer, MASTER])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body.encode()]
