"""gunicorn's gevent worker: greenlets in the place of threads."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg2
import pytest

from tests.ecosystem.promises import Ask, Database, answers_are_its_own, by_http, hold
from tests.ecosystem.serving import program, serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.package(
    "gevent",
    to_set="psycopg2: `dbpool.drivers.wait_with_gevent()` when the process starts; "
    "psycopg 3: nothing",
)


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_greenlets_share_a_small_pool_none_waits_for_anothers_query_and_every_promise_holds(
    field: Database, tmp_path: Path, framework: str
) -> None:
    with serving(
        program("gunicorn"), "--no-control-socket", "--bind=127.0.0.1:{port}",
        "--worker-class=gevent", f"tests.ecosystem.{framework}_site:app",
        url=field.address(framework), log=tmp_path / "log", framework=framework, FIELD_GREEN="1",
    ) as (address, _):  # fmt: skip
        ask = by_http(address)
        hold(ask, field)
        answers_are_its_own(ask, 200, 32)
        assert field.sessions() <= 3  # the pool's two, and the spare of the health check
        others_are_answered_while_one_waits(ask, field)


def others_are_answered_while_one_waits(ask: Ask, field: Database) -> None:
    def waiting() -> bool:
        return field.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1"

    holder = psycopg2.connect(field.server.dsn(dbname=field.name))
    try:
        holder.cursor().execute("SELECT pg_advisory_lock(4711)")
        request = threading.Thread(target=ask, args=("POST", "/session"))
        request.start()
        wait_until(waiting, 30)
        assert ask("GET", "/echo/7") == (200, "7")
        assert waiting()
    finally:
        holder.close()
    request.join()
