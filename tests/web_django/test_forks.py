"""A parent and its children never share a session, whatever they hold when it forks."""

from __future__ import annotations

import json
import os
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import inside
from tests.support.forking import fork_in_c
from tests.web_django.project import Project

# As Python does, and as uWSGI does behind its back.
BOTH_WAYS = pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["by Python", "in C"])


def _in_child(function: Callable[[], Any], fork: Callable[[], int] = os.fork) -> Any:
    """Fork, run the function in the child, return what it returned there."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(["returned", function()]).encode())
        except BaseException:  # noqa: BLE001 - the parent is told
            os.write(writing, json.dumps(["raised", traceback.format_exc()]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    outcome, value = json.loads(answer)
    assert outcome == "returned", value
    return value


def _pids(times: int = 3) -> list[int]:
    """Ask for the session's number, as several requests would."""
    from django.db import close_old_connections, connection

    seen = []
    for _ in range(times):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            seen.append(cursor.fetchone()[0])
        close_old_connections()
    return seen


@BOTH_WAYS
@pytest.mark.project(pool={"max_size": 2})
def test_children_of_a_parent_that_has_queried_have_sessions_of_their_own(
    fork: Callable[[], int],
) -> None:
    parent = set(_pids())
    children = [_in_child(_pids, fork) for _ in range(2)]
    assert not parent & {pid for pids in children for pid in pids}
    assert not set(children[0]) & set(children[1])
    assert set(_pids()) == parent  # neither ended nor replaced by what the children did


@BOTH_WAYS
@pytest.mark.project(pool={"max_size": 2})
def test_a_wrapper_that_holds_a_connection_at_the_fork_lets_go_of_it_in_the_child(
    fork: Callable[[], int],
) -> None:
    from django.db import connection

    def pid() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])

    held = pid()
    # Of a fork in C nobody hears before something of ours is used.
    at_once = fork is os.fork
    assert _in_child(lambda: [connection.connection is None, pid() != held], fork) == [
        at_once,
        True,
    ]
    assert _in_child(lambda: [connection.close(), pid() != held], fork) == [None, True]
    assert pid() == held
    connection.close()
    inside.audit(connection.pool)


@BOTH_WAYS
@pytest.mark.project(pool={"max_size": 2})
def test_an_atomic_block_open_at_the_fork_stays_the_parents(
    project: Project, fork: Callable[[], int]
) -> None:
    from django.db import ProgrammingError, transaction

    from tests.web_django.shelf.models import Book

    def child() -> str:
        try:
            Book.objects.create(title="from the child, in nobody's transaction")
        except ProgrammingError as error:
            return str(error)
        return "written"

    with transaction.atomic():
        Book.objects.create(title="from the parent")
        assert "atomic block" in _in_child(child, fork)
    assert project.titles() == ["from the parent"]


@BOTH_WAYS
@pytest.mark.project(pool={"max_size": 2})
def test_a_child_that_leaves_the_parents_atomic_block_works_on(
    project: Project, fork: Callable[[], int]
) -> None:
    from django.db import connection, transaction

    from tests.web_django.shelf.models import Book

    atomic = transaction.atomic()
    atomic.__enter__()
    Book.objects.create(title="from the parent")

    def child() -> int:
        atomic.__exit__(None, None, None)
        Book.objects.create(title="from the child")
        return Book.objects.count()

    assert _in_child(child, fork) == 1
    atomic.__exit__(None, None, None)
    connection.close()
    assert project.titles() == ["from the child", "from the parent"]


@pytest.mark.project(pool={"max_size": 2})
def test_a_thread_that_queries_while_another_forks_does_not_hang_the_child() -> None:
    # Not before the backend is imported and connected: Python's import locks and libpq's own do
    # not survive a fork that comes while another thread holds them.
    _pids(1)
    stop = threading.Event()

    def query() -> None:
        while not stop.is_set():
            _pids(1)

    thread = threading.Thread(target=query)
    thread.start()
    try:
        for _ in range(10):
            assert len(_in_child(_pids)) == 3
    finally:
        stop.set()
        thread.join()


@pytest.mark.project(pool={"max_size": 2})
def test_a_lock_held_at_the_fork_does_not_hang_the_child() -> None:
    from dbpool_django import pools

    _pids(1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with pools._lock:
            held.set()
            done.wait(30)

    def child() -> list[int]:
        from django.db import connection

        connection.close_pool()
        return _pids()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    try:
        assert len(_in_child(child)) == 3
    finally:
        done.set()
        thread.join()


@BOTH_WAYS
@pytest.mark.project(pool={"max_size": 2})
def test_a_backend_that_remembers_what_it_has_set_forgets_it_in_the_child(
    fork: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """django-tenants sets its search path once a connection, and forgets that in `close()`."""
    from django.db import connection

    wrapper: Any = connection._connections["default"]  # type: ignore[attr-defined]
    as_ever = {name: getattr(wrapper, name) for name in ("_cursor", "close")}
    is_set = []

    def cursor(name: str | None = None) -> Any:
        made = as_ever["_cursor"](name)
        if not is_set:
            is_set.append(True)
            with as_ever["_cursor"](None) as setting:
                setting.execute("SET search_path = elsewhere")
        return made

    def close() -> None:
        is_set.clear()
        as_ever["close"]()

    monkeypatch.setattr(wrapper, "_cursor", cursor)
    monkeypatch.setattr(wrapper, "close", close)

    def search_path() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW search_path")
            return str(cursor.fetchone()[0])

    assert search_path() == "elsewhere"
    assert _in_child(search_path, fork) == "elsewhere"
    assert search_path() == "elsewhere"
    connection.close()
