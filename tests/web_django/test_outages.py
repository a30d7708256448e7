"""A server that restarts, or is not there, costs Django no more than it must."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.waiting import wait_until
from tests.web_django.project import database, is_inside
from tests.web_django.site import Site

pytestmark = pytest.mark.outage


@pytest.fixture
def server() -> Iterator[PostgresServer | None]:
    """A server that the test may break; started in the test's own process only."""
    if not is_inside():
        yield None
        return
    with PostgresServer() as server:
        yield server


def _use(server: PostgresServer, **pool: Any) -> None:
    """Point the project's alias at the test's own server, before its first query."""
    from django.db import connections

    settings = database(server.dsn(), pool)
    connections["default"].settings_dict.update(settings)


def _warm(site: Site, count: int) -> None:
    """Open that many connections, by requests that are all in their query at the same time."""
    barrier = threading.Barrier(count)

    @site.view("slow")
    def slow(request: Any) -> Any:
        from django.db import connection
        from django.http import HttpResponse

        with connection.cursor() as cursor:
            barrier.wait(30)
            cursor.execute("SELECT 1")
        return HttpResponse("ok")

    threads = [threading.Thread(target=site.get, args=["slow"]) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.project(tables=False)
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_with_idle_connections_fails_no_request(
    site: Site, server: PostgresServer, mode: str
) -> None:
    from django.db import connection
    from django.http import HttpResponse

    _use(server, max_size=4)

    @site.view("query")
    def query(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return HttpResponse("ok")

    _warm(site, 4)
    pool = connection.pool
    assert pool.get_stats()["pool_available"] == 4
    server.restart(mode)
    assert [site.get("query").status for _ in range(8)] == [200] * 8
    # Nor does any of them stay behind.
    wait_until(lambda: pool.get_stats()["connections_lost"] == 4)
    inside.audit(pool)


@pytest.mark.project(tables=False)
def test_sessions_that_the_server_ended_fail_no_request(site: Site, server: PostgresServer) -> None:
    from django.db import connection
    from django.http import HttpResponse

    _use(server, max_size=3)

    @site.view("query")
    def query(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return HttpResponse("ok")

    _warm(site, 3)
    server.sql(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE application_name = 'dbpool:default'"
    )
    assert [site.get("query").status for _ in range(6)] == [200] * 6
    inside.audit(connection.pool)


@pytest.mark.project(tables=False)
def test_a_connection_lost_in_a_request_is_not_lent_again(
    site: Site, server: PostgresServer
) -> None:
    from django.db import OperationalError, connection
    from django.http import HttpResponse

    _use(server, max_size=1)
    seen = []

    @site.view("dies")
    def dies(request: Any) -> Any:
        with connection.cursor() as cursor:
            try:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            except OperationalError as error:
                seen.append(error)
        return HttpResponse("ok")

    @site.view("query")
    def query(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return HttpResponse("ok")

    assert site.get("dies").status == 200
    assert len(seen) == 1
    stats = connection.pool.get_stats()
    assert (stats["pool_size"], stats["pool_available"]) == (0, 0)
    assert site.get("query").status == 200


@pytest.mark.project(tables=False)
def test_an_error_that_leaves_the_session_intact_costs_no_connection(
    site: Site, server: PostgresServer
) -> None:
    from django.db import ProgrammingError, connection
    from django.http import HttpResponse

    _use(server, max_size=1)

    @site.view("wrong")
    def wrong(request: Any) -> Any:
        with connection.cursor() as cursor:
            with pytest.raises(ProgrammingError):
                cursor.execute("SELECT no_such_column")
        return HttpResponse("ok")

    for _ in range(3):
        assert site.get("wrong").status == 200
    stats = connection.pool.get_stats()
    assert (stats["connections_num"], stats["pool_available"]) == (1, 1)


@pytest.mark.project(tables=False)
def test_a_database_that_is_down_at_start_is_an_error_until_it_is_up(
    site: Site, server: PostgresServer
) -> None:
    from django.db import OperationalError, connection
    from django.http import HttpResponse

    from dbpool import PoolTimeout

    _use(server, max_size=2, timeout=0.5)
    raised = []

    @site.view("query")
    def query(request: Any) -> Any:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except OperationalError as error:
            raised.append(error)
            raise
        return HttpResponse("ok")

    server.stop()
    assert site.get("query").status == 500
    assert "connect_refused" in str(raised[0])
    assert isinstance(raised[0].__cause__, PoolTimeout)
    server.start()
    wait_until(lambda: site.get("query").status == 200)
    inside.audit(connection.pool)


@pytest.mark.project(tables=False)
def test_a_connection_lost_in_a_request_makes_the_pool_doubt_the_others(
    site: Site, server: PostgresServer
) -> None:
    from django.db import OperationalError, connection
    from django.http import HttpResponse

    _use(server, max_size=3, min_size=0)

    @site.view("query")
    def query(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return HttpResponse("ok")

    _warm(site, 3)
    pool = connection.pool
    connection.ensure_connection()
    # Cut off, as a network does that drops every packet would be slower to show.
    server.sql(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE application_name = 'dbpool:default'"
    )
    with pytest.raises(OperationalError):
        connection.cursor().execute("SELECT 1")
    # Told at once, not when the connection comes back.
    assert inside.doubted_at(pool) > inside.proved_at(pool)
    wait_until(lambda: pool.get_stats()["pool_size"] == 1, message="the idle ones found dead")
    connection.close()
    assert site.get("query").status == 200
    inside.audit(pool)


@pytest.mark.filterwarnings("ignore:.*was deleted while still open")  # psycopg 3 tells its users
@pytest.mark.project
def test_an_open_server_side_cursor_does_not_wait_for_a_frozen_server(
    server: PostgresServer,
) -> None:
    from django.db import connection

    _use(server, max_size=1, min_size=0, ping_timeout=0.2)
    given_back = threading.Event()

    def work() -> None:
        cursor = connection.chunked_cursor()
        cursor.execute("SELECT generate_series(1, 1000)")
        server.freeze()
        connection.close()
        given_back.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        assert given_back.wait(30)
    finally:
        server.thaw()
        thread.join()
    assert connection.pool.get_stats()["pool_size"] == 0  # cut off, and not lent again
    inside.audit(connection.pool)
