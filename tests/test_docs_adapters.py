"""docs/adapters.md: what it shows, run as it stands, on public names only."""

from __future__ import annotations

import ast
import os
import secrets
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dbpool import ConnectionPool, adapters
from tests.support import inside
from tests.support.documents import Document
from tests.support.servers import Postgres

ROOT = Path(__file__).resolve().parents[1]
PAGE = Document(ROOT / "docs" / "adapters.md")
DOORS = ("dbpool", "dbpool.adapters", "dbpool.health", "dbpool.options", "dbpool.drivers.base")


CODE = [code for language, code in PAGE.blocks if language == "python"]


class Books:
    """A new database with the table of the page's examples."""

    def __init__(self, server: Postgres) -> None:
        self._server, self._name = server, f"adapters_{secrets.token_hex(4)}"
        self.url = server.createdb(self._name)
        server.sql("CREATE TABLE book (title text UNIQUE)", dbname=self._name)

    def titles(self) -> list[str]:
        return self._server.sql("SELECT title FROM book ORDER BY 1", dbname=self._name).split()


@pytest.fixture
def books(postgres: Postgres) -> Books:
    return Books(postgres)


def test_they_import_the_doors_alone() -> None:
    for code in CODE:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dbpool"):
                assert node.module in DOORS


def test_each_name_of_the_table_is_there() -> None:
    for name in ("borrow", "Owner", "UNAVAILABLE", "retry_after", "close_with", "after_fork"):
        assert f"`{name}" in PAGE.text
        assert name in adapters.__all__


def test_a_celery_task_commits_or_leaves_nothing(books: Books) -> None:
    celery = pytest.importorskip("celery")
    app = celery.Celery("page", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    app.conf.task_eager_propagates = True
    with ConnectionPool(books.url, max_size=1) as pool:
        names = {"app": app, "pool": pool, "__name__": "page"}
        exec(PAGE.block("class TaskOwner"), names)
        exec(PAGE.block("@app.task"), names)
        add_book = names["add_book"]
        add_book.delay("Dune")  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="duplicate key"):
            add_book.delay("Dune")  # type: ignore[attr-defined]
        add_book.delay("Emma")  # type: ignore[attr-defined]
        assert pool.get_stats()["connections_num"] == 1
        inside.audit(pool)
    assert books.titles() == ["Dune", "Emma"]


def test_a_fastapi_endpoint_commits_before_it_answers(books: Books, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    (tmp_path / "database.py").write_text(PAGE.block("# database.py"))
    (tmp_path / "main.py").write_text(PAGE.block("# main.py"))
    (tmp_path / "ask.py").write_text(
        textwrap.dedent("""
            from fastapi.testclient import TestClient
            from database import pool
            from main import app
            from tests.support import inside

            inside.put(pool, timeout=0.1)
            with TestClient(app, raise_server_exceptions=False) as client:
                for title in ("Dune", "Dune", "Emma"):
                    print(client.post(f"/books/{title}").status_code)
                pool.pause()
                answer = client.post("/books/Ulysses")
                print(answer.status_code, answer.headers["Retry-After"])
        """)
    )
    environ = {**os.environ, "DATABASE_URL": books.url, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "ask.py"],
        cwd=tmp_path, env=environ, capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.splitlines() == ["201", "500", "201", "503 1"], run.stderr
    assert books.titles() == ["Dune", "Emma"]
