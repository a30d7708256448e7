"""A pool here, a PgBouncer there: what works in session and in transaction mode, what is told."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from testproject._postgres_guard import processes
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.pgbouncer import PgBouncer, find_pgbouncer
from tests.support.waiting import wait_until
from tests.web_django.project import database, is_inside
from tests.web_django.site import Site

pytestmark = pytest.mark.skipif(
    find_pgbouncer() is None,
    reason="there is no pgbouncer (Debian, Ubuntu: apt-get install pgbouncer)",
)

ROOT = Path(__file__).parents[2]
MODES = pytest.mark.parametrize("mode", ["session", "transaction"])
APP = {"INSTALLED_APPS": ["dbpool_django", "tests.web_django.shelf"]}


@pytest.fixture
def server() -> Iterator[PostgresServer | None]:
    if not is_inside():
        yield None
        return
    with PostgresServer() as server:
        server.sql("CREATE TABLE shelf_book (id bigserial PRIMARY KEY, title text NOT NULL UNIQUE)")
        yield server


@pytest.fixture
def pooler(server: PostgresServer, mode: str) -> Iterator[PgBouncer | None]:
    """A PgBouncer that has three sessions at the server; the project's alias goes through it."""
    if not is_inside():
        yield None
        return
    from django.db import connection

    with PgBouncer(server, mode) as pooler:
        settings = database(pooler.dsn(), {"max_size": 6, "timeout": 20})
        connection.settings_dict.update(
            settings, DISABLE_SERVER_SIDE_CURSORS=mode == "transaction", TIME_ZONE="Asia/Tokyo"
        )
        yield pooler
        connection.close()
        connection.close_pool()


@pytest.mark.project(tables=False, settings=APP)
@MODES
def test_requests_share_its_sessions(site: Site, pooler: PgBouncer, mode: str) -> None:
    from django.db import connection, transaction
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    zones = set()

    @site.view("write")
    def write(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('TimeZone')")
            zones.add(cursor.fetchone()[0])
        title = threading.current_thread().name
        with transaction.atomic():
            number = Book.objects.filter(title__startswith=title).count()
            Book.objects.create(title=f"{title}/{number}")
        try:
            with transaction.atomic():
                Book.objects.create(title=f"{title}/lost")
                raise LookupError
        except LookupError:
            pass
        assert sum(1 for book in Book.objects.iterator(2) if book.title.startswith(title))
        return HttpResponse("ok")

    # No more of them than PgBouncer has sessions, where each of ours keeps one.
    threads = 3 if mode == "session" else 6
    with ThreadPoolExecutor(threads) as executor:
        answers = list(executor.map(lambda _: site.get("write"), range(60)))
    assert {answer.status for answer in answers} == {200}
    assert Book.objects.count() == 60
    assert not Book.objects.filter(title__endswith="lost").exists()
    assert zones == {"Asia/Tokyo"}
    connection.close()
    inside.audit(connection.pool)


@pytest.mark.project(tables=False, settings=APP)
@MODES
def test_checks_and_the_command_tell_that_it_is_in_between(
    pooler: PgBouncer, server: PostgresServer, mode: str
) -> None:
    from django.core.management import call_command
    from django.db import connection

    from dbpool_django.checks import check_server

    def ids() -> list[str | None]:
        return [message.id for message in check_server(connection)]

    assert "dbpool_django.W004" not in ids() or mode == "session"
    connection.settings_dict["DISABLE_SERVER_SIDE_CURSORS"] = False
    assert "dbpool_django.W004" in ids()
    out = StringIO()
    call_command("dbpool", "--test", "3", stdout=out)
    assert ", behind a connection pooler" in out.getvalue().splitlines()[0]
    out = StringIO()
    call_command("dbpool", "--test", "3", "--json", stdout=out)
    assert json.loads(out.getvalue())["server"]["pooler"] is True
    # And that it is not, where it is not.
    connection.settings_dict["PORT"] = str(server.port)
    assert "dbpool_django.W004" not in ids()


@pytest.mark.filterwarnings("ignore:.*was deleted while still open")  # psycopg 3 tells its users
@pytest.mark.project(tables=False, settings=APP)
@MODES
def test_server_side_cursors_end_with_the_transaction_in_transaction_mode(
    pooler: PgBouncer, mode: str
) -> None:
    from django.db import DatabaseError, connection, transaction

    from tests.web_django.shelf.models import Book

    Book.objects.bulk_create(Book(title=str(number)) for number in range(7))
    connection.settings_dict["DISABLE_SERVER_SIDE_CURSORS"] = False

    def read(between: Callable[[], object] = lambda: None) -> list[str]:
        rows = Book.objects.order_by("id").values_list("title", flat=True).iterator(2)
        return [next(rows), *[between() or title for title in rows]]

    expected = [str(number) for number in range(7)]
    with transaction.atomic():
        assert read() == expected
    others: list[Any] = []

    def somebody_comes() -> None:
        """Begin transactions, of no more clients than there are sessions left for."""
        while len(others) < 2 and not (others and _sees_a_cursor(others[-1])):
            others.append(connection.Database.connect(pooler.dsn()))

    try:
        if mode == "session":
            assert read(somebody_comes) == expected
            assert not any(_sees_a_cursor(other) for other in others)
        else:
            with pytest.raises((DatabaseError, connection.Database.Error), match="does not exist"):
                read(somebody_comes)
            assert _sees_a_cursor(others[-1])  # in whose session it is
    finally:
        for other in others:
            other.close()
    connection.close()
    connection.settings_dict["DISABLE_SERVER_SIDE_CURSORS"] = True
    others = []
    assert read(somebody_comes) == expected
    for other in others:
        other.close()
    gc.collect()  # cursors whose close failed, while their warning is still ignored


def _sees_a_cursor(client: Any) -> bool:
    """Return whether a server-side cursor of Django's is in this client's session."""
    cursor = client.cursor()
    cursor.execute("SELECT count(*) FROM pg_cursors WHERE name LIKE '%django%'")
    return bool(cursor.fetchone()[0])


@pytest.mark.project(tables=False)
@pytest.mark.parametrize("mode", ["session"])
def test_in_session_mode_a_changed_session_is_cleaned(
    site: Site, pooler: PgBouncer, mode: str
) -> None:
    from django.db import connection
    from django.http import HttpResponse

    @site.view("changes")
    def changes(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 4321")
            cursor.execute("CREATE TEMP TABLE leftover (id int)")
        return HttpResponse("ok")

    @site.view("next")
    def next_(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('statement_timeout'), to_regclass('pg_temp.leftover')"
            )
            return HttpResponse(repr(cursor.fetchone()))

    assert site.get("changes").status == 200
    assert site.get("next") == (200, "('0', None)")
    assert connection.pool.get_stats()["connections_num"] == 1


@pytest.mark.project(tables=False)
@MODES
def test_its_restart_and_the_servers_fail_no_request(
    site: Site, pooler: PgBouncer, server: PostgresServer, mode: str
) -> None:
    from django.db import connection
    from django.http import HttpResponse

    barrier = threading.Barrier(3)

    @site.view("slow")
    def slow(request: Any) -> Any:
        with connection.cursor() as cursor:
            barrier.wait(30)
            cursor.execute("SELECT 1")
        return HttpResponse("ok")

    @site.view("query")
    def query(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return HttpResponse("ok")

    def warm() -> None:
        with ThreadPoolExecutor(3) as executor:
            assert {one.status for one in executor.map(site.get, ["slow"] * 3)} == {200}

    warm()
    pooler.restart()
    assert [site.get("query").status for _ in range(6)] == [200] * 6
    warm()
    server.restart()
    # PgBouncer turns clients away for a moment itself ("server login has been failing").
    wait_until(lambda: _serves(pooler), message="PgBouncer has the server back")
    assert [site.get("query").status for _ in range(6)] == [200] * 6
    inside.audit(connection.pool)


def _serves(pooler: PgBouncer) -> bool:
    from django.db import connection

    # It lets clients in by itself: only a query asks the server.
    with closing(connection.Database.connect(pooler.dsn())) as client:
        try:
            client.cursor().execute("SELECT 1")
        except connection.Database.OperationalError:
            return False
    return True


@pytest.mark.project(tables=False)
@pytest.mark.parametrize("mode", ["transaction"])
def test_while_it_is_paused_requests_wait(site: Site, pooler: PgBouncer, mode: str) -> None:
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    assert site.get("count").status == 200
    pooler.admin("PAUSE")
    with ThreadPoolExecutor(2) as executor:
        waiting = [executor.submit(site.get, "count") for _ in range(2)]

        def clients_waiting() -> int:
            rows = pooler.admin("SHOW POOLS")
            return sum(row[3] for row in rows if row[0] == "postgres")

        wait_until(lambda: clients_waiting() >= 1, message="a client that waits")
        assert not any(one.done() for one in waiting)
        pooler.admin("RESUME")
        assert [one.result(30).status for one in waiting] == [200, 200]


RUNNER = """
import os
from testproject.postgres import PostgresServer
from tests.support.pgbouncer import PgBouncer
server = PostgresServer().start()
PgBouncer(server, "session").start()
print(server.directory, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_runner_that_is_killed_leaves_none_behind() -> None:
    command = [sys.executable, "-c", RUNNER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    directory = done.stdout.strip()
    assert directory, done.stderr
    wait_until(
        lambda: not any(f"{directory}/pgbouncer-" in process.title for process in processes()),
        timeout=30,
        message="the PgBouncer of the run that was killed has ended",
    )
