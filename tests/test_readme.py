"""Every code block of README.md does what README.md says, against a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.support.documents import Document
from tests.support.servers import Postgres
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
README = Document(ROOT / "README.md")
URL = "postgresql://app@db.example/shop"

block = README.block

TESTED = {
    "make demo": "test_the_two_commands_exist",
    "DATABASES": "test_one_changed_line_switches_a_django_project",
    "db = DBPool(app)": "test_the_flask_app_commits_before_the_answer",
    "MIDDLEWARE": "test_one_changed_line_switches_a_django_project",
    "curl -i": "test_the_health_answer_is_as_shown",
    "with ConnectionPool(": "test_the_pool_alone",
}


def test_every_block_is_run_by_a_test() -> None:
    assert len(README.blocks) == len(TESTED)
    for text, test in TESTED.items():
        block(text)
        assert test in globals()


def test_the_two_commands_exist() -> None:
    commands = re.findall(r"^\$ (make \w+)", block("make demo"), flags=re.MULTILINE)
    assert commands == ["make demo", "make test"]
    for command in [*commands, "make demo KEEP=1"]:
        done = subprocess.run(
            [*command.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def orders(postgres: Postgres) -> Iterator[Any]:
    """The table that the Flask block writes to, seen from a session of its own."""
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS orders")
            cursor.execute("CREATE TABLE orders (customer text)")
            yield cursor
            cursor.execute("DROP TABLE orders")


def flask_app(postgres: Postgres) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "shop"}
    exec(block("db = DBPool(app)").replace(URL, postgres.url()), namespace)
    return namespace


def close_pools(shop: dict[str, Any]) -> None:
    with shop["app"].app_context():
        for pool in shop["db"].pools.values():
            pool.close()


def test_the_flask_app_commits_before_the_answer(postgres: Postgres, orders: Any) -> None:
    code = [line for line in block("db = DBPool(app)").splitlines() if line.strip()]
    assert len(code) == 10, "the heading says ten lines"
    shop = flask_app(postgres)
    try:
        answer = shop["app"].test_client().post("/orders")
        assert (answer.status_code, answer.get_json()) == (201, {"ok": True})
        orders.execute("SELECT customer FROM orders")
        assert orders.fetchall() == [("Ada",)]
    finally:
        close_pools(shop)


def test_the_health_answer_is_as_shown(postgres: Postgres) -> None:
    shown = block("curl -i").split("\n", 1)[1]
    head, _, body = shown.partition("\n\n")
    status, *headers = head.splitlines()
    shop = flask_app(postgres)
    try:
        client = shop["app"].test_client()
        # A warning on a busy machine, for some seconds.
        wait_until(lambda: client.get("/healthz/db").text == body)
        answer = client.get("/healthz/db")
    finally:
        close_pools(shop)
    assert status == f"HTTP/1.1 {answer.status}"
    for line in headers:
        name, value = line.split(": ")
        assert answer.headers[name] == value
    assert answer.text == body


DJANGO = """
import json, os, sys
{databases}
{middleware}
name, user, host, port = sys.argv[1:]
DATABASES["default"] |= {{"NAME": name, "USER": user, "HOST": host, "PORT": port}}
DATABASES["default"]["PASSWORD"] = os.environ["PASSWORD"]
import django
from django.conf import settings
from django.db import connection, connections
from django.http import JsonResponse
from django.test import RequestFactory
from django.urls import path
def view(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        return JsonResponse({{"name": cursor.fetchone()[0]}})
urlpatterns = [path("", view)]
settings.configure(DATABASES=DATABASES, MIDDLEWARE=MIDDLEWARE, ROOT_URLCONF=__name__,
                   ALLOWED_HOSTS=["*"])
django.setup()
from django.test import Client
answer, health = Client().get("/"), Client().get("/healthz/db")
print(json.dumps([answer.json()["name"], health.status_code, health.content.decode(),
                  connection.vendor, type(connections["default"]).__module__]))
"""


def test_one_changed_line_switches_a_django_project(postgres: Postgres, tmp_path: Path) -> None:
    parameters = psycopg2.extensions.parse_dsn(postgres.dsn())
    script = tmp_path / "project.py"
    script.write_text(DJANGO.format(databases=block("DATABASES"), middleware=block("MIDDLEWARE")))
    done = subprocess.run(
        [sys.executable, str(script)]
        + [parameters.get(name, "") for name in ("dbname", "user", "host", "port")],
        cwd=ROOT,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            "PASSWORD": parameters.get("password", ""),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, status, body, vendor, module = json.loads(done.stdout)
    assert name == "dbpool:default"
    assert (status, body) == (200, '{"status":"pass"}\n')
    assert (vendor, module) == ("postgresql", "dbpool_django.backends.postgresql.base")


def test_the_pool_alone(postgres: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    exec(textwrap.dedent(block("with ConnectionPool(")).replace(URL, postgres.url()), {})
    assert capsys.readouterr().out == "1\n"


def test_links_lead_somewhere() -> None:
    assert README.broken_links() == []
