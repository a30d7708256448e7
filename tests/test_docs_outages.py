"""docs/outages.md: its code runs, its lines of log are those that are logged."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectionPool, PoolDown, PoolTimeout
from dbpool.options import OPTIONS
from testproject.postgres import PostgresServer
from tests.health.probing import patient
from tests.support import inside
from tests.support.documents import Document
from tests.support.stub_driver import StubDriver, StubError
from tests.support.waiting import wait_until

PAGE = Document(Path(__file__).resolve().parents[1] / "docs" / "outages.md")
URL = "postgresql://app@db-a.example,db-b.example/shop"


def make_pool(server: PostgresServer) -> ConnectionPool:
    namespace: dict[str, Any] = {}
    exec(PAGE.block("role=").replace(URL, server.url()), namespace)
    pool: ConnectionPool = namespace["pool"]
    return pool


def test_links_lead_somewhere() -> None:
    assert PAGE.broken_links() == []


@pytest.mark.outage
def test_the_pool_that_is_shown_works_and_says_what_is_shown(
    breakable_postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dbpool.pool")
    pool = make_pool(breakable_postgres)
    try:
        with pool.connection() as conn:
            conn.cursor().execute("SELECT 1")
        breakable_postgres.stop()
        for _ in range(2):  # the first may find the one that died
            try:
                pool.getconn()
            except PoolDown:
                break
            except psycopg2.OperationalError:
                pass
        breakable_postgres.start()
        wait_until(lambda: pool.state == "ok", 30.0)
    finally:
        pool.close()
    logged = [record.getMessage() for record in caplog.records]
    down, _, up = PAGE.block("is down, it cannot connect").splitlines()
    for shown in (down, up):
        pattern = (
            re.escape(shown).replace(r"'default'", r"'[\w-]+'").replace("connect_refused", r"\w+")
        )
        pattern = re.sub(r"\d+(\\\.\d+)?", r"[\\d.]+", pattern)
        assert any(re.fullmatch(pattern, line) for line in logged), (pattern, logged)


def test_every_line_of_the_log_that_is_shown_is_logged_like_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "dbpool")
    error = type("OperationalError", (StubError,), {})("connect_refused")
    stub = StubDriver()
    pool = ConnectionPool("", driver=stub, name="default", max_use=0.05, down_wait=0.0, max_size=3)
    health = patient(lambda: {"default": pool})

    def refuse(_: object) -> None:
        raise error

    try:
        with pool.connection():  # held until it is warned of
            wait_until(lambda: "max_use" in caplog.text, 30.0)
            assert health.respond("GET", "/healthz/db", "", [], "")[0] == 200
            stub.hooks["connect"] = refuse
            with pytest.raises(PoolTimeout):
                pool.getconn(0.05)
            wait_until(lambda: "cannot connect: connect_refused" in caplog.text, 30.0)
        with pytest.raises(PoolDown):
            pool.getconn()
        inside.put(pool, proved_at=-math.inf)  # a second later
        assert health.respond("GET", "/healthz/db", "", [], "")[0] == 503
        full = inside.Failure(StubError("full"), "too_many_connections")
        line = inside.connect_failed(pool, 0.0, 0.0, full, alive=True)
        logging.getLogger("dbpool.pool").warning(line)
        logging.getLogger("dbpool.pool").warning(
            inside.outage(pool).reminder(time.monotonic() + 30)
        )
        stub.hooks.clear()
        inside.put(inside.outage(pool), full_until=0.0)
        wait_until(lambda: "is up again" in caplog.text, 30.0)
    finally:
        pool.close()
    logged = [_without_numbers(record.getMessage()) for record in caplog.records]
    for block in ("is down, it cannot connect", "has no room for more"):
        for shown in PAGE.block(block).splitlines():
            assert _without_numbers(shown) in logged


def test_the_lines_of_the_log_about_connects_that_hang_are_logged_like_that(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.patch(monkeypatch, "OVERRUN", 0.0)
    stub, go = StubDriver(), threading.Event()
    with ConnectionPool("", driver=stub, name="default", connect_timeout=0.05) as pool:
        with pool.connection():
            stub.hooks["connect"] = lambda _: go.wait(60.0)
            with pytest.raises(PoolTimeout):
                pool.getconn(0.05)
            wait_until(lambda: asked(pool) and "2 connects do not end" in caplog.text, 30.0)
            stub.hooks.clear()
            wait_until(lambda: asked(pool) and "connects again" in caplog.text, 30.0)
        go.set()
    logged = [_without_numbers(record.getMessage()) for record in caplog.records]
    for shown in PAGE.block("connects do not end, in the driver").splitlines():
        assert _without_numbers(shown) in logged


def asked(pool: ConnectionPool) -> bool:
    try:
        pool.putconn(pool.getconn(0.05))
    except PoolTimeout:
        pass
    return True


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", line)


def test_the_defaults_that_are_told_are_those_of_the_options() -> None:
    told = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", PAGE.text, flags=re.MULTILINE)
    assert len(told) == 13
    for name, default in told:
        assert repr(OPTIONS[name].default) == default, name
    shown = re.findall(r"^    (\w+)=", PAGE.block("role="), flags=re.MULTILINE)
    assert {*shown} <= {name for name, _ in told}


@pytest.mark.outage
def test_a_restart_as_it_is_shown_costs_no_error(breakable_postgres: PostgresServer) -> None:
    pool = make_pool(breakable_postgres)
    errors: list[Exception] = []
    served, stop = [0], threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                with pool.connection(30.0) as conn:
                    conn.cursor().execute("SELECT 1")
                served[0] += 1
            except Exception as error:  # noqa: BLE001 - none is expected
                errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        wait_until(lambda: served[0] > 10, 30.0)
        before, _, after = PAGE.block("pool.pause").partition("# …")
        exec(before, {"pool": pool})
        breakable_postgres.restart()
        exec(after.partition("\n")[2], {"pool": pool})
        more = served[0]
        wait_until(lambda: served[0] > more + 10, 30.0)
    finally:
        stop.set()
        caller.join()
        pool.close()
    assert errors == []
