"""A pool that is made at import, as projects make theirs, and what worker processes do with it.

POOL_CONNINFO and POOL_DRIVER say on what.
"""

from __future__ import annotations

import os
from typing import Any

from dbpool import ConnectionPool

__all__ = ["Answer", "ask", "backend", "pool"]

Answer = tuple[int, int, int]  # the process, the session, and what was asked

pool = ConnectionPool(
    os.environ["POOL_CONNINFO"], driver=os.environ["POOL_DRIVER"], max_size=2, timeout=30
)


def one(conn: Any, sql: str) -> int:
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])


def backend(conn: Any) -> int:
    return one(conn, "SELECT pg_backend_pid()")


def ask(token: int) -> Answer:
    """Ask a question of one's own; `token` is the answer that is expected."""
    with pool.connection() as conn:
        answer = one(conn, f"SELECT {token} FROM pg_sleep(0.01)")
        assert answer == token, f"asked {token}, answered {answer}"
        return os.getpid(), backend(conn), answer
