"""Connections whose class is not the driver's own: a user's, or a tracer's proxy."""

from __future__ import annotations

from typing import Any

import pytest

from dbpool.health import HealthCheck
from tests.drivers.conftest import needs_psycopg, run
from tests.support import inside
from tests.support.callers import MakePool
from tests.support.servers import Postgres


def exercise(pool: Any) -> None:
    """Have the pool ping, reset and probe, and see that the one connection stays."""
    for _ in range(2):
        with pool.connection() as conn:
            run(conn, "SET statement_timeout TO 4321")
            run(conn, "SELECT 1")
    pool.check()
    check = HealthCheck(lambda: {"default": pool})
    assert check.respond("GET", "/healthz/db", "", {}, None)[0] == 200
    with pool.connection() as conn:
        assert run(conn, "SHOW statement_timeout")[0][0] == "0"
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["returns_bad"], stats["connections_lost"]) == (1, 0, 0)
    inside.audit(pool)


@pytest.mark.parametrize("traced", [False, True], ids=["plain", "traced"])
def test_a_psycopg2_class_whose_cursor_has_a_factory_of_its_own_serves(
    new_pool: MakePool, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, traced: bool
) -> None:
    from psycopg2 import extensions, extras

    class Own(extensions.connection):
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            return super().cursor(*args, cursor_factory=extras.DictCursor, **kwargs)

    if traced:
        from tests.support.proxies import trace

        trace(monkeypatch)
    pool = new_pool(
        postgres.dsn(),
        driver="psycopg2",
        max_size=1,
        validate="ping",
        reset="discard",
        kwargs={"connection_factory": Own},
    )
    exercise(pool)


@needs_psycopg
@pytest.mark.parametrize("traced", [False, True], ids=["plain", "traced"])
def test_a_psycopg_class_whose_cursor_has_a_factory_of_its_own_serves(
    new_pool: MakePool, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, traced: bool
) -> None:
    import psycopg

    class Own(psycopg.Connection[Any]):
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            return psycopg.ClientCursor(self)

        def execute(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("the user's own is for the user")

    if traced:
        from tests.support.proxies import trace

        trace(monkeypatch)  # which inherits the tracer's connect
    pool = new_pool(
        postgres.dsn(),
        driver="psycopg",
        max_size=1,
        validate="ping",
        reset="discard",
        kwargs={"connection_class": Own},
    )
    exercise(pool)
