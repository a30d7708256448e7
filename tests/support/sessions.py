"""A look at the server's sessions past any pool, and their end by command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from tests.support.servers import Postgres, connect
from tests.support.waiting import wait_until

__all__ = ["held_lock", "last_query", "one", "role_with", "run_sql", "terminate"]


def run_sql(server: Postgres, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run a statement in a session of its own."""
    with closing(connect(server.dsn(application_name="tests: looking"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


def one(conn: Any, sql: str, *parameters: Any) -> Any:
    """Return the first column of the first row, from a connection of the pool."""
    with conn.cursor() as cursor:
        cursor.execute(sql, parameters)
        row = cursor.fetchone()
        assert row
        return row[0]


def last_query(server: Postgres, pid: int) -> str:
    """Return what a session was last asked."""
    return str(run_sql(server, "SELECT query FROM pg_stat_activity WHERE pid = %s", pid)[0][0])


@contextmanager
def held_lock(dsn: str, number: int) -> Iterator[Callable[[], None]]:
    """Hold an advisory lock until the end of the block, or until what it yields is called.

    A query that asks for it runs for exactly as long as the test needs it to.
    """
    with closing(connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [number])
        yield connection.close


def role_with(dsn: str, password: str) -> str:
    """Return a role that logs in with this password, so that it is not what a connect fails by."""
    name = "who_has_the_secret"
    with closing(connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name])
        verb = "ALTER" if cursor.fetchall() else "CREATE"
        quoted = password.replace("'", "''")
        cursor.execute(f"{verb} ROLE {name} LOGIN PASSWORD '{quoted}'")
    return name


def terminate(server: Postgres, *pids: int) -> None:
    """End these sessions; return when they are gone."""
    run_sql(server, "SELECT pg_terminate_backend(p) FROM unnest(%s) p", list(pids))
    wait_until(
        lambda: (
            not run_sql(server, "SELECT 1 FROM pg_stat_activity WHERE pid = ANY(%s)", list(pids))
        ),
        message="the sessions end",
    )
