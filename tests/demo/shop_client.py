"""Asking a shop for things, through its test client or over HTTP."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testproject.demo.servers import SHOP, App

__all__ = ["Answer", "HttpClient", "ShopClient", "TestClient", "order"]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class ShopClient:
    """What both ways of asking have in common."""

    def ask(self, method: str, path: str, body: str = "") -> Answer:
        raise NotImplementedError

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post_order(self, body: object) -> Answer:
        return self.ask("POST", "/orders", body if isinstance(body, str) else json.dumps(body))


class TestClient(ShopClient):
    """The framework's own test client, in a child process."""

    __test__ = False  # not a test class, whatever its name

    def __init__(self, app: App, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.demo.client_process", app.name],
            cwd=SHOP,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, method: str, path: str, body: str = "") -> Answer:
        assert self._process.stdin
        assert self._process.stdout
        question = {"method": method, "path": path, "body": body}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client's process ended, see its error output"
        return Answer(*json.loads(line))

    def close(self) -> None:
        """End the process, and see that it ends well."""
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()
            assert self._process.wait(timeout=30) == 0


class HttpClient(ShopClient):
    """A client of a server on this host; one connection per request."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str, body: str = "") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()


def order(key: str, *items: tuple[object, object]) -> dict[str, object]:
    """Return the body of an order of (product, quantity) pairs."""
    return {"key": key, "items": [{"product": p, "quantity": q} for p, q in items]}
