"""50 callers at once, 5 idle connections, slow connects: who waits for a connect of his own?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg2

from benchmarks._others import DBUtilsPool, PsycopgPool, SQLAlchemyPool
from benchmarks._peers import Connects, Dbpool, Peer, Psycopg2Pool, Wanted
from benchmarks._report import Column, Table, rotated

__all__ = ["measure"]

CALLERS = 50
IDLE = 5
WORK = 0.002
IDEAL = CALLERS / IDLE * WORK

_KINDS = (Dbpool, Psycopg2Pool, PsycopgPool, SQLAlchemyPool, DBUtilsPool)


def measure(
    dsn_for: Callable[[str], str],
    rounds: int,
    connect: float,
    absent: Callable[[type[Peer]], bool],
) -> Table:
    """Send the callers once per pool and round.

    Arguments: `dsn_for` an application_name; `connect`, seconds besides what it takes anyway.
    """
    table = Table(
        "spike",
        f"{CALLERS} callers at once, {IDLE} idle connections, room for {CALLERS}; connects of "
        f"{connect * 1000:.0f} ms, work of {WORK * 1000:.0f} ms",
        (
            Column("beyond", f"ms beyond the ideal {IDEAL * 1000:.0f}", "{:.1f}"),
            Column("made", "connects begun", "{:.0f}"),
            Column("open", "open at the end", "{:.0f}"),
        ),
    )
    for number in range(rounds):
        for kind in rotated(list(_KINDS), number):
            if absent(kind):
                table.missing(kind.name)
                continue
            table.add(kind.name, **_spike(kind, dsn_for, connect))
    table.notes.append(
        "psycopg2.pool, SQLAlchemy's overflow and psycopg_pool close again what is above the "
        f"{IDLE}"
    )
    table.goal(
        "dbpool: done within 40 ms of the ideal",
        table.median(Dbpool.name, "beyond"),
        most=40.0,
        form="{:.1f}",
    )
    table.goal(
        "dbpool: at most 6 open at the end",
        table.median(Dbpool.name, "open"),
        most=6,
        form="{:.0f}",
    )
    return table


def _spike(kind: type[Peer], dsn_for: Callable[[str], str], connect: float) -> dict[str, float]:
    application = f"spike {kind.package or kind.name}"
    peer = kind(Wanted(dsn_for(application), CALLERS, keep=IDLE))
    try:
        peer.fill(IDLE)
        Connects.delay = connect
        made = len(Connects.made)
        took = _callers(peer)
        time.sleep(2 * connect)  # connects that are under way come in
        return {
            "beyond": (took - IDEAL) * 1000,
            "made": len(Connects.made) - made,
            "open": _sessions(dsn_for("spike: counting"), application),
        }
    finally:
        Connects.delay = 0.0
        peer.close()


def _callers(peer: Peer) -> float:
    """Return the seconds from the start of the first caller to the end of the last."""
    gate = threading.Barrier(CALLERS)
    asked, ended = [0.0] * CALLERS, [0.0] * CALLERS

    def call(number: int) -> None:
        gate.wait()
        asked[number] = time.perf_counter()
        conn = peer.take()
        time.sleep(WORK)
        peer.give(conn)
        ended[number] = time.perf_counter()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(ended) - min(asked)


def _sessions(dsn: str, application: str) -> int:
    conn = psycopg2.connect(dsn)
    try:
        with conn.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [application]
            )
            row = cursor.fetchone()
            return int(row[0]) if row else 0
    finally:
        conn.close()
