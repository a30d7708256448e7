"""`/healthz/db` in front of a Django project that would answer a load balancer itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.health import golden
from tests.health.asking import by_wsgi, own
from tests.health.sites.django_site import GUARDED, database
from tests.health.situations import place, settled
from tests.support.servers import Postgres, count_sessions
from tests.web_django.project import in_thread

# One is no route; the other needs its header.
NOT_ROUTED = ("GET beneath a pool", "verbose while well")
guarded = pytest.mark.project(settings=GUARDED, tables=False)


@contextmanager
def pool_in(situation: str, postgres: Postgres) -> Iterator[Any]:
    """Point the default database at the situation's place; yield its pool."""
    from django.db import connections

    from dbpool_django.pools import all_pools

    with place(situation, postgres) as url:
        connections.settings["default"].update(database(url))
        pool = all_pools()["default"]
        with settled(situation, pool):
            yield pool
        pool.close()


@guarded
@pytest.mark.parametrize("situation", golden.SITUATIONS)
def test_every_golden_exchange(situation: str, postgres: Postgres) -> None:
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import Client

    with pool_in(situation, postgres):
        app, client = WSGIHandler(), Client()
        for exchange in golden.EXCHANGES:
            if exchange.situation != situation:
                continue
            asked = exchange.request
            assert by_wsgi(app, asked) == exchange.reply, exchange.name
            if asked.host is not None:  # the test client always sends one
                answer = client.generic(
                    asked.method,
                    f"{asked.path}?{asked.query}",
                    headers=asked.headers,
                )
                reply = own(answer.status_code, answer.items(), answer.content)
                assert reply == exchange.reply, exchange.name


@guarded
@pytest.mark.parametrize("situation", golden.SITUATIONS)
def test_every_golden_exchange_under_asgi(situation: str, postgres: Postgres) -> None:
    from django.test import AsyncClient

    async def ask_all() -> None:
        client = AsyncClient()
        for exchange in golden.EXCHANGES:
            asked = exchange.request
            if exchange.situation != situation or asked.host is None:
                continue
            answer = await client.generic(
                asked.method, f"{asked.path}?{asked.query}", headers=asked.headers
            )
            reply = own(answer.status_code, answer.items(), answer.content)
            assert reply == exchange.reply, exchange.name

    with pool_in(situation, postgres):
        asyncio.run(ask_all())


@guarded
def test_a_probe_that_waits_does_not_hold_up_the_event_loop(postgres: Postgres) -> None:
    from django.test import AsyncClient

    async def ask() -> int:
        probe = asyncio.create_task(AsyncClient().get("/healthz/db"))
        turns = 0
        while not probe.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert (await probe).status_code == 503
        return turns

    with pool_in("black hole", postgres):
        assert asyncio.run(ask()) > 5


@guarded
def test_a_crowd_of_probes_that_wait_leaves_the_event_loops_threads_to_others(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 checks of a database that does not answer wait for one probe, and others do not."""
    from django.test import AsyncClient

    from dbpool.health import HealthCheck

    asked: list[str] = []
    done: list[str] = []
    matches, respond = HealthCheck.matches, HealthCheck.respond

    def noticed(check: HealthCheck, path: str) -> bool:
        if threading.current_thread() is threading.main_thread():  # the event loop's
            asked.append(path)
        return matches(check, path)

    def answered(*args: Any) -> Any:
        answer = respond(*args)
        done.append("probe")
        return answer

    monkeypatch.setattr(HealthCheck, "matches", noticed)
    monkeypatch.setattr(HealthCheck, "respond", answered)

    async def crowd() -> list[int]:
        probes = [asyncio.ensure_future(AsyncClient().get("/healthz/db")) for _ in range(60)]
        while len(asked) < 60:
            await asyncio.sleep(0)
        works = [asyncio.to_thread(done.append, "work") for _ in range(20)]
        await asyncio.gather(*works)
        return [answer.status_code for answer in await asyncio.gather(*probes)]

    with pool_in("black hole", postgres) as pool:
        assert asyncio.run(crowd()) == [503] * 60
        assert pool.get_stats()["connections_num"] == 0
    assert sorted(done) == ["probe"] * 60 + ["work"] * 20
    assert done[:20] == ["work"] * 20


@guarded
def test_the_project_would_answer_a_load_balancer_itself() -> None:
    from django.test import Client

    client = Client()
    assert client.get("/", headers={"host": golden.HOST}).status_code == 301
    inside: dict[str, Any] = {"headers": {"host": golden.HOST}, "secure": True}
    assert client.get("/", **inside).status_code == 401
    # A client that has been let in, at an address that is not allowed.
    known = {"authorization": "Basic me", "host": "10.0.0.7"}
    assert client.get("/", headers=known, secure=True).status_code == 400


@guarded
def test_failing_checks_are_not_logged_as_errors_of_the_project(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    from django.test import Client

    caplog.set_level(logging.DEBUG)
    with pool_in("down", postgres):
        for _ in range(3):
            assert Client().get("/healthz/db").status_code == 503
            assert Client().post("/healthz/db").status_code == 405
    assert not [record for record in caplog.records if record.name.startswith("django")]
    assert len([record for record in caplog.records if record.name == "dbpool.health"]) == 1


@pytest.mark.project(
    settings={
        "ROOT_URLCONF": "tests.health.sites.django_site",
        "MIDDLEWARE": ["django.middleware.csrf.CsrfViewMiddleware"],
        "DBPOOL_HEALTH_PATH": None,
    },
    tables=False,
)
def test_as_routes_it_answers_wherever_the_project_puts_them(postgres: Postgres) -> None:
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    assert client.get("/healthz/db").status_code == 404
    for exchange in golden.EXCHANGES:
        if exchange.situation != "well" or exchange.name in NOT_ROUTED:
            continue
        asked = exchange.request
        answer = client.generic(asked.method, asked.path.replace("/healthz", "/routed"))
        reply = own(answer.status_code, answer.items(), answer.content)
        assert reply == exchange.reply, exchange.name


@pytest.mark.project(settings={"DBPOOL_HEALTH_DEADLIN": 1}, tables=False)
def test_a_setting_that_is_none_is_named_when_the_server_starts() -> None:
    from django.core.exceptions import ImproperlyConfigured

    from dbpool_django.middleware import HealthMiddleware

    with pytest.raises(ImproperlyConfigured, match="did you mean 'DBPOOL_HEALTH_DEADLINE'"):
        HealthMiddleware(lambda request: None)  # type: ignore[arg-type, return-value]


@guarded
def test_a_health_check_takes_no_connection_of_the_request(postgres: Postgres) -> None:
    from django.core.handlers.wsgi import WSGIHandler
    from django.db import connections

    def probe() -> list[Any]:
        assert by_wsgi(WSGIHandler(), golden.Request()).status == 200
        return connections.all(initialized_only=True)

    with pool_in("well", postgres) as pool:
        assert in_thread(probe) == []  # nor is a wrapper tied to the probe's thread
        assert pool.get_stats()["requests_num"] == 0


@guarded
def test_the_spare_connection_bears_its_own_name_not_the_projects(postgres: Postgres) -> None:
    from django.db import connections
    from django.test import Client

    with pool_in("well", postgres) as unnamed:
        unnamed.close()
        connections.settings["default"]["OPTIONS"]["application_name"] = "bookshop"
        assert Client().get("/healthz/db").status_code == 200
        assert count_sessions(postgres, "dbpool-health:default") == 1
        assert count_sessions(postgres, "bookshop") == 0
