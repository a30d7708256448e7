"""SQLite: a block of db.transaction() begins as the pool's connections are told to."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from dbpool_flask import DBPool
from tests.support.callers import PATIENCE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "counts.db"
    with closing(sqlite3.connect(path)) as setup:
        setup.execute("CREATE TABLE count (n INT)")
        setup.execute("INSERT INTO count VALUES (0)")
        setup.commit()
    return path


def app_of(file: Path, level: str | None, mode: str = "request", **options: Any) -> Any:
    app = Flask("modes")
    app.config["DBPOOL_URL"] = f"sqlite:///{file}"
    app.config["DBPOOL_OPTIONS"] = {"kwargs": {"isolation_level": level}, **options}
    app.config["DBPOOL_TRANSACTION"] = mode
    return app, DBPool(app)


def is_locked(file: Path) -> bool:
    """Return whether somebody holds the lock that writers need."""
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


@pytest.mark.parametrize("mode", ["request", "autocommit", "manual"])
@pytest.mark.parametrize(
    ("level", "locks"), [("IMMEDIATE", True), ("EXCLUSIVE", True), ("DEFERRED", False), ("", False)]
)
def test_a_block_takes_its_lock_when_it_begins(
    level: str, locks: bool, mode: str, file: Path
) -> None:
    app, db = app_of(file, level, mode)
    found = []

    @app.post("/")
    def view() -> str:
        with db.transaction():
            found.append(is_locked(file))
        return "done"

    for _ in range(2):  # the second on the connection that the first had
        assert app.test_client().post("/").status_code == 200
    assert found == [locks, locks]
    assert not is_locked(file)


def test_a_level_that_configure_has_set_counts_too(file: Path) -> None:
    def configure(conn: sqlite3.Connection) -> None:
        conn.isolation_level = "IMMEDIATE"

    app, db = app_of(file, "", "autocommit", configure=configure)
    with app.app_context(), db.transaction():
        assert is_locked(file)


def test_blocks_that_read_and_then_write_wait_for_one_another(file: Path) -> None:
    app, db = app_of(file, "IMMEDIATE", max_size=4)

    def add(times: int) -> None:
        for _ in range(times):
            with app.app_context(), db.transaction() as conn:
                ((n,),) = conn.execute("SELECT n FROM count").fetchall()
                conn.execute("UPDATE count SET n = ?", (n + 1,))

    threads = [threading.Thread(target=add, args=(10,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    with closing(sqlite3.connect(file)) as look:
        assert look.execute("SELECT n FROM count").fetchall() == [(40,)]
