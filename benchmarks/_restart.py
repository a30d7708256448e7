"""The server is restarted while the pool is idle: who gets an error, and how long does it take?"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import psycopg2

from benchmarks._others import DBUtilsPool, PsycopgPool, SQLAlchemyPool
from benchmarks._peers import Dbpool, Peer, Psycopg2Pool, Wanted
from benchmarks._report import Column, Table, rotated
from testproject.postgres import PostgresServer

__all__ = ["IDLE_FOR", "STALE", "calls", "measure", "one_connect"]

STALE = 6
CALLS = 160
IDLE_FOR = 0.25  # seconds; dbpool looks at what has been idle for validate_after, 0.1 s
AT_ONCE = "dbpool, in use until the restart"

_PEERS: tuple[tuple[str, type[Peer], Callable[..., Peer]], ...] = (
    (Dbpool.name, Dbpool, Dbpool),
    (AT_ONCE, Dbpool, Dbpool),
    (Psycopg2Pool.name, Psycopg2Pool, Psycopg2Pool),
    (PsycopgPool.name, PsycopgPool, PsycopgPool),
    (f"{PsycopgPool.name}, check=", PsycopgPool, partial(PsycopgPool, check=True)),
    (SQLAlchemyPool.name, SQLAlchemyPool, SQLAlchemyPool),
    (f"{SQLAlchemyPool.name}, pre_ping", SQLAlchemyPool, partial(SQLAlchemyPool, pre_ping=True)),
    (DBUtilsPool.name, DBUtilsPool, DBUtilsPool),
)


def measure(server: PostgresServer, rounds: int, absent: Callable[[type[Peer]], bool]) -> Table:
    """Restart the server once per pool and round, then make the calls one after the other."""
    table = Table(
        "restart",
        f"Server restarted while {STALE} connections are idle, then {CALLS} calls one by one",
        (
            Column("errors", "errors", "{:.0f}"),
            Column("slowest", "slowest call, ms", "{:.1f}"),
            Column("connects", "in connects"),
        ),
    )
    connects: list[float] = []
    restarts: list[float] = []
    for number in range(rounds):
        for name, kind, make in rotated(list(_PEERS), number):
            if absent(kind):
                table.missing(name)
                continue
            peer = make(Wanted(server.dsn(), STALE))
            try:
                peer.fill(STALE)
                if name != AT_ONCE:
                    time.sleep(IDLE_FOR)
                started = time.perf_counter()
                server.restart()
                restarts.append(time.perf_counter() - started)
                one = one_connect(server.dsn())
                connects.append(one)
                errors, slowest = calls(peer)
            finally:
                peer.close()
            table.add(name, errors=errors, slowest=slowest * 1000, connects=slowest / one)
    table.notes.append(
        f"one connect took {median(connects) * 1000:.1f} ms: the median of 9 after each restart"
    )
    table.notes.append(
        f"idle for {IDLE_FOR} s before the restart, which took {median(restarts):.2f} s; "
        "'in use until' it: not idle for dbpool's validate_after"
    )
    if not absent(DBUtilsPool):
        table.notes.append("DBUtils sends a statement again after an error, whatever it is")
    table.goal("dbpool: no error", table.median(Dbpool.name, "errors"), most=0, form="{:.0f}")
    table.goal(
        "dbpool: slowest call <= 2 x one connect",
        table.median(Dbpool.name, "connects"),
        most=2.0,
    )
    return table


def one_connect(dsn: str) -> float:
    """Return what a connect takes now; the first ones find the server's caches empty."""
    took = []
    for _ in range(9):
        started = time.perf_counter()
        conn = psycopg2.connect(dsn)
        took.append(time.perf_counter() - started)
        conn.close()
    return median(took)


def calls(peer: Peer) -> tuple[int, float]:
    """Return how many calls failed, and how long the slowest one took."""
    errors, slowest = 0, 0.0
    for _ in range(CALLS):
        started = time.perf_counter()
        try:
            peer.use()
        except peer.errors:
            errors += 1
        slowest = max(slowest, time.perf_counter() - started)
    return errors, slowest
