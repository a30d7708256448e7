"""What goes wrong while a connection is taken: Django's exceptions, ours as their cause."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import open_one
from tests.web_django.project import Project, database, is_inside
from tests.web_django.site import Site

PASSWORD = "it's a \\secret/?@: 41"


@pytest.fixture
def guarded() -> Iterator[PostgresServer | None]:
    """A server that asks for a password; started in the test's own process only."""
    if not is_inside():
        yield None
        return
    with PostgresServer(password=PASSWORD) as server:
        yield server


def _raised(wrapper: Any) -> Any:
    from django.db import OperationalError

    with pytest.raises(OperationalError) as caught:
        wrapper.ensure_connection()
    return caught.value


def _everything_said(error: BaseException | None, caplog: pytest.LogCaptureFixture) -> str:
    said = [record.getMessage() for record in caplog.records]
    while error is not None:
        said.append(f"{error} {error!r}")
        error = error.__cause__ or error.__context__
    return "\n".join(said)


@pytest.mark.project(pool={"max_size": 1, "timeout": 0.2})
def test_a_full_pool_is_an_operational_error_with_ours_as_its_cause(site: Site) -> None:
    from django.db import OperationalError, connection
    from django.http import HttpResponse

    from dbpool import PoolTimeout

    raised = []

    @site.view("query")
    def query(request: Any) -> Any:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except OperationalError as error:
            raised.append(error)
            return HttpResponse(status=503)
        return HttpResponse("ok")

    open_one(connection.pool)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        connection.ensure_connection()
        held.set()
        done.wait(30)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    assert site.get("query").status == 503
    done.set()
    thread.join()
    cause = raised[0].__cause__
    assert isinstance(cause, PoolTimeout)
    assert isinstance(cause, connection.Database.OperationalError)
    assert (cause.size, cause.in_use) == (1, 1)
    assert "1 of 1 in use" in str(raised[0])
    assert site.get("query").status == 200
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1, "max_waiting": 1, "timeout": 20})
def test_a_full_queue_answers_at_once(site: Site) -> None:
    from django.db import connection

    from dbpool import TooManyRequests
    from tests.support.waiting import wait_until

    connection.ensure_connection()
    pool = connection.pool

    def wait() -> None:
        connection.ensure_connection()
        connection.close()

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: pool.get_stats()["requests_waiting"] == 1)
    copy = connection.copy()
    assert isinstance(_raised(copy).__cause__, TooManyRequests)
    connection.close()
    waiting.join()
    inside.audit(pool)


@pytest.mark.project(tables=False)
def test_a_wrong_password_is_told_at_once_and_in_no_message(
    guarded: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    from django.db import connection

    from dbpool import ConnectFailed

    caplog.set_level(logging.DEBUG)
    settings = database(guarded.dsn(password="hunter2"), {"timeout": 60})
    connection.settings_dict.update(settings)
    error = _raised(connection)
    assert isinstance(error.__cause__, ConnectFailed)
    assert "user or password" in str(error)
    assert "hunter2" not in _everything_said(error, caplog)
    connection.settings_dict["PASSWORD"] = PASSWORD
    connection.ensure_connection()
    assert "secret" not in repr(connection.pool)
    connection.close()
    assert "secret" not in _everything_said(None, caplog)


@pytest.mark.project(tables=False, pool={"timeout": 60})
def test_a_database_that_does_not_exist_is_told_at_once() -> None:
    from django.db import connection

    from dbpool import ConnectFailed

    connection.settings_dict["NAME"] = "no_such_database"
    error = _raised(connection)
    assert isinstance(error.__cause__, ConnectFailed)
    assert "does not exist" in str(error)


@pytest.mark.project(pool={"max_size": 1})
def test_a_cursor_used_after_close_cannot_reach_the_next_borrowers_session(
    project: Project,
) -> None:
    from django.db import connection

    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    connection.close()
    with pytest.raises(Exception, match="closed"):
        cursor.execute("INSERT INTO shelf_book (title) VALUES ('by whom?')")
    assert project.titles() == []


@pytest.mark.project(pool={"max_size": 1})
def test_a_connection_somebody_has_closed_is_replaced() -> None:
    from django.db import connection

    connection.ensure_connection()
    connection.connection.close()
    connection.close()
    connection.ensure_connection()
    assert connection.is_usable()
    connection.close()
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 1})
def test_a_connection_that_is_no_pools_is_closed_and_costs_no_slot(project: Project) -> None:
    import gc

    from django.db import connection

    connection.ensure_connection()
    connection.connection = stranger = connection.Database.connect(project.dsn)
    gc.collect()
    connection.close()
    assert stranger.closed
    connection.ensure_connection()
    connection.close()
    inside.audit(connection.pool)
