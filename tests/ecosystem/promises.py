"""What holds with and without the package under test; each check drives one of the two sites.

A client is a function: `ask("POST", "/rows/1")` returns status and body.
"""

from __future__ import annotations

import json
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from testproject.postgres import PostgresServer
from tests.support.waiting import wait_until
from tests.web_django.project import DRIVER

__all__ = ["DRIVER", "Ask", "Database", "answers_are_its_own", "by_http", "by_test_client", "hold"]

LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
Ask = Callable[[str, str], tuple[int, str]]


class Database:
    """A new database with the sites' table."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.name = f"field_{secrets.token_hex(4)}"
        # Without the driver's name Flask and the core take psycopg2 wherever there is one.
        self.url = server.createdb(self.name).replace("://", f"+{DRIVER}://", 1)
        self.sql("CREATE TABLE field_row (n int)")

    def address(self, framework: str) -> str:
        """Return what the sites take: a URL for Flask, a libpq string for Django."""
        return self.url if framework == "flask" else self.server.dsn(dbname=self.name)

    def sql(self, statements: str) -> str:
        """Run SQL past the pool; return the bare rows."""
        return self.server.sql(statements, dbname=self.name)

    def rows(self, n: int) -> int:
        """Return how many committed rows of that number there are."""
        return int(self.sql(f"SELECT count(*) FROM field_row WHERE n = {n}"))

    def sessions(self) -> int:
        """Return how many sessions are open in it but the one that counts."""
        return int(
            self.sql(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


def by_test_client(client: Any) -> Ask:
    """Ask through Werkzeug's test client."""

    def ask(method: str, path: str) -> tuple[int, str]:
        answer = client.open(path, method=method)
        body: str = answer.get_data(as_text=True)
        answer.close()
        return answer.status_code, body

    return ask


def by_http(address: str) -> Ask:
    """Ask a server."""

    def ask(method: str, path: str) -> tuple[int, str]:
        request = urllib.request.Request(f"{address}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return ask


def hold(ask: Ask, database: Database) -> None:
    """Check driver, commit, rollback, a clean session for the next request, errors and health."""
    assert ask("GET", "/driver") == (200, DRIVER)
    untouched = ask("GET", "/session")
    assert untouched[0] == 200
    assert ask("GET", "/echo/7") == (200, "7")
    assert ask("POST", "/rows/1") == (201, "added")
    assert database.rows(1) == 1
    assert ask("POST", "/refused/2")[0] == 409
    assert database.rows(2) == 0
    assert ask("POST", "/broken")[0] == 500
    assert ask("POST", "/session") == (200, "changed")
    for _ in range(4):
        assert ask("GET", "/session") == untouched
    wait_until(lambda: database.sql(LOCKS) == "0", 30, lambda: "no lock is left in any session")
    status, body = ask("GET", "/healthz/db")
    assert (status, json.loads(body)["status"]) == (200, "pass")


def answers_are_its_own(ask: Ask, requests: int = 400, clients: int = 16) -> None:
    """Check that no request gets another's answer."""

    def answer(n: int) -> tuple[int, str]:
        return ask("GET", f"/echo/{n}")

    with ThreadPoolExecutor(clients) as executor:
        answers = list(executor.map(answer, range(requests)))
    assert [(n, got) for n, got in enumerate(answers) if got != (200, str(n))] == []


def free_port() -> int:
    """Return a port for a server that opens it by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
