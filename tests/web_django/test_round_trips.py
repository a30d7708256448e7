"""How many statements a request costs, counted in the server's own log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testproject.postgres import PostgresServer
from tests.support.waiting import wait_until
from tests.web_django.project import database, is_inside
from tests.web_django.site import Site

LOG = {"log_statement": "all", "log_connections": "on", "log_line_prefix": "%a|"}
# Another zone than the connections': the server's own would make setting it superfluous.
LOG["timezone"] = "Asia/Tokyo"


class Log:
    """What the server has logged of the pools' sessions since `start`."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._begin = 0
        self._marks = 0

    def start(self) -> None:
        self._begin = len(self._text())

    def statements(self) -> list[str]:
        return [
            line.split("LOG:  statement: ", 1)[1]
            for line in self._text()[self._begin :].splitlines()
            if line.startswith("dbpool:") and "LOG:  statement: " in line
        ]

    def connects(self) -> int:
        """Count connects, also those under no name of ours, but not those of `_text`."""
        return sum(
            "connection authorized" in line and "application_name=psql" not in line
            for line in self._text()[self._begin :].splitlines()
        )

    def _text(self) -> str:
        """Return the log up to now: a statement of our own marks its end."""
        self._marks += 1
        mark = f"SELECT 'mark {self._marks}'"
        self._server.sql(mark)
        return str(
            wait_until(
                lambda: mark in (text := self._server.log_text()) and text,
                message="the server's log",
            )
        )


@pytest.fixture
def log() -> Iterator[Log | None]:
    """The statement log of a server of the test's own, which the project uses."""
    if not is_inside():
        yield None
        return
    from django.db import connection

    with PostgresServer(conf=LOG) as server:
        connection.settings_dict.update(database(server.dsn(), {"max_size": 4}))
        server.sql("CREATE TABLE shelf_book (id bigserial PRIMARY KEY, title text)")
        yield Log(server)


def _views(site: Site) -> None:
    from django.db import transaction
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("select")
    def select(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    @site.view("atomic")
    @transaction.atomic
    def atomic(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))


@pytest.mark.project(tables=False)
def test_a_view_with_one_select_is_one_round_trip(site: Site, log: Log) -> None:
    _views(site)
    site.get("select")
    log.start()
    for _ in range(20):
        assert site.get("select").status == 200
    assert len(log.statements()) == 20
    assert log.connects() == 0


@pytest.mark.project(tables=False)
def test_an_atomic_view_is_three_round_trips(site: Site, log: Log) -> None:
    _views(site)
    site.get("atomic")
    log.start()
    for _ in range(20):
        assert site.get("atomic").status == 200
    assert len(log.statements()) == 60
    assert log.connects() == 0


@pytest.mark.project(tables=False)
def test_health_checks_and_max_age_cost_no_round_trip(site: Site, log: Log) -> None:
    from django.db import connection

    _views(site)
    connection.settings_dict.update(CONN_HEALTH_CHECKS=True, CONN_MAX_AGE=600)
    site.get("select")
    log.start()
    for _ in range(20):
        assert site.get("select").status == 200
    assert len(log.statements()) == 20
    assert log.connects() == 0


@pytest.mark.project(tables=False)
def test_only_validate_ping_pays_a_round_trip_for_each_checkout(site: Site, log: Log) -> None:
    from django.db import connection

    _views(site)
    connection.settings_dict["OPTIONS"]["pool"]["validate"] = "ping"
    site.get("select")
    log.start()
    for _ in range(5):
        assert site.get("select").status == 200
    assert len(log.statements()) == 10
    assert log.connects() == 0


@pytest.mark.project(tables=False)
def test_an_error_in_a_view_costs_no_round_trip(site: Site, log: Log) -> None:
    from django.db import ProgrammingError, connection
    from django.http import HttpResponse

    @site.view("wrong")
    def wrong(request: Any) -> Any:
        with connection.cursor() as cursor:
            with pytest.raises(ProgrammingError):
                cursor.execute("SELECT no_such_column")
        return HttpResponse("ok")

    site.get("wrong")
    log.start()
    for _ in range(5):
        assert site.get("wrong").status == 200
    assert log.statements() == ["SELECT no_such_column"] * 5
    assert log.connects() == 0


@pytest.mark.project(tables=False)
def test_each_request_on_a_thread_of_its_own_costs_no_more(site: Site, log: Log) -> None:
    from tests.web_django.project import in_thread

    _views(site)
    site.get("select")
    log.start()
    for _ in range(20):
        assert in_thread(lambda: site.get("select")).status == 200
    assert len(log.statements()) == 20
    assert log.connects() == 0


@pytest.mark.project(tables=False)
def test_zone_and_role_are_set_once_per_connection(site: Site, log: Log) -> None:
    from django.db import connection

    connection.settings_dict["OPTIONS"]["assume_role"] = "pg_monitor"
    log.start()
    for _ in range(3):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, current_setting('TimeZone')")
            assert cursor.fetchone() == ("pg_monitor", "UTC")
        connection.close()
    statements = log.statements()
    assert len([text for text in statements if "set_config" in text]) == 1
    assert len([text for text in statements if "SET ROLE" in text]) == 1
    assert len(statements) == 5
    assert log.connects() == 1
