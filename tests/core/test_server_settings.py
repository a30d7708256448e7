"""`statement_timeout` and `idle_in_transaction_session_timeout`: what each session begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectionPool
from tests.support.callers import PATIENCE, MakePool
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

WANTED: dict[str, Any] = {"statement_timeout": 1.5, "idle_in_transaction_session_timeout": 60}


def shown(pool: ConnectionPool, *names: str) -> list[str]:
    with pool.connection() as conn:
        return [str(one(conn, f"SHOW {name}")) for name in names]


def test_each_session_begins_with_them(pg_pool: MakePool) -> None:
    assert shown(pg_pool(**WANTED), *WANTED) == ["1500ms", "1min"]


def test_without_them_the_servers_own_count(pg_pool: MakePool) -> None:
    assert shown(pg_pool(), *WANTED) == ["0", "0"]


def test_they_cost_no_round_trip(pg_pool: MakePool, postgres: Postgres) -> None:
    """They go with the connect: the session has not been asked anything yet."""
    pool = pg_pool(min_size=1, name="quiet", **WANTED)
    pool.wait(PATIENCE)
    with psycopg2.connect(postgres.dsn()) as conn:
        sql = "SELECT query FROM pg_stat_activity WHERE application_name = 'dbpool:quiet'"
        assert one(conn, sql) == ""
    conn.close()


def test_what_the_user_has_in_options_stays(pg_pool: MakePool) -> None:
    pool = pg_pool(kwargs={"options": "-c work_mem=5MB -c statement_timeout=9000"}, **WANTED)
    assert shown(pool, "work_mem", "statement_timeout") == ["5MB", "1500ms"]


def test_what_the_environment_and_a_service_file_say_stays(
    new_pool: MakePool, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=6MB")
    assert shown(new_pool(postgres.dsn(), **WANTED), "work_mem", "statement_timeout") == [
        "6MB",
        "1500ms",
    ]
    service = tmp_path / "services"
    lines = [
        f"{key}={value}" for key, value in psycopg2.extensions.parse_dsn(postgres.dsn()).items()
    ]
    service.write_text("\n".join(["[shop]", *lines, "options=-c work_mem=7MB"]))
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    assert shown(new_pool("service=shop", **WANTED), "work_mem", "statement_timeout") == [
        "7MB",
        "1500ms",
    ]


@pytest.mark.parametrize("reset", ["rollback", "discard"])
def test_a_borrowers_own_setting_is_forgotten_by_discard_only_as_any_other(
    reset: str, pg_pool: MakePool
) -> None:
    pool = pg_pool(max_size=1, reset=reset, **WANTED)
    with pool.connection() as conn:
        conn.cursor().execute("SET statement_timeout = '7s'")
    assert shown(pool, "statement_timeout") == ["7s" if reset == "rollback" else "1500ms"]


def test_the_server_ends_a_statement_that_takes_longer(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1, statement_timeout=0.2)
    with pytest.raises(psycopg2.errors.QueryCanceled), pool.connection() as conn:
        one(conn, "SELECT pg_sleep(100)")
    assert pool.get_stats()["connections_closed"] == {}


def test_the_server_ends_a_session_that_idles_in_a_transaction(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(max_size=1, name="idler", idle_in_transaction_session_timeout=0.2)
    conn = pool.getconn()
    assert one(conn, "SELECT 1") == 1
    wait_until(lambda: count_sessions(postgres, "dbpool:idler") == 0, PATIENCE)
    pool.putconn(conn)
    assert shown(pool, "idle_in_transaction_session_timeout") == ["200ms"]


def test_a_driver_without_such_settings_says_so(stub: StubDriver) -> None:
    with pytest.raises(ValueError, match="statement_timeout: the driver 'stub' has no such"):
        ConnectionPool(driver=stub, statement_timeout=1.0)
