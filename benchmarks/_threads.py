"""32 threads share 4 connections: how much gets done, and how evenly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks._others import DbpoolPsycopg, DBUtilsPool, PsycopgPool, SQLAlchemyPool
from benchmarks._peers import (
    BareFairQueue,
    BareQueue,
    Dbpool,
    Peer,
    Psycopg2Pool,
    Wanted,
    query,
)
from benchmarks._report import Column, Table, rotated

__all__ = ["measure_held", "measure_queries"]

THREADS = 32
CONNECTIONS = 4

_KINDS = (
    Dbpool,
    BareFairQueue,
    BareQueue,
    Psycopg2Pool,
    PsycopgPool,
    DbpoolPsycopg,
    SQLAlchemyPool,
    DBUtilsPool,
)
_COLUMNS = (
    Column("rate", "calls/s", "{:.0f}"),
    Column("even", "min/max per thread"),
    Column("longest", "longest wait, ms", "{:.1f}"),
    Column("cpu", "processor µs/call", "{:.1f}"),
)


def measure_queries(
    dsn: str, rounds: int, seconds: float, absent: Callable[[type[Peer]], bool]
) -> Table:
    """Let every thread do SELECT 1, again and again."""
    title = f"{THREADS} threads on {CONNECTIONS} connections, SELECT 1 each time"
    table = Table("queries", title, _COLUMNS)
    _measure(table, dsn, rounds, seconds, absent, query)
    fastest = _fastest(table, (BareQueue.name, Psycopg2Pool.name))
    table.goal(
        f"dbpool >= 0.95 x the fastest of those that let threads starve ({fastest})",
        table.ratio(Dbpool.name, fastest, "rate"),
        least=0.95,
    )
    table.goal("dbpool min/max per thread >= 0.9", table.median(Dbpool.name, "even"), least=0.9)
    table.goal(
        "dbpool longest wait <= 15 ms",
        table.median(Dbpool.name, "longest"),
        most=15.0,
        form="{:.1f}",
    )
    return table


def measure_held(
    dsn: str, rounds: int, seconds: float, absent: Callable[[type[Peer]], bool]
) -> Table:
    """Let every thread hold its connection for 1 ms."""
    title = (
        f"{THREADS} threads on {CONNECTIONS} connections, held 1 ms each time (no pool can do "
        f"more than {CONNECTIONS * 1000}/s)"
    )
    table = Table("held", title, _COLUMNS)
    _measure(table, dsn, rounds, seconds, absent, lambda conn: time.sleep(0.001))
    best = _fastest(table, [kind.name for kind in _KINDS if not issubclass(kind, Dbpool)])
    table.goal(
        f"dbpool >= 0.95 x the best ({best})", table.ratio(Dbpool.name, best, "rate"), least=0.95
    )
    return table


def _fastest(table: Table, names: Any) -> str:
    return str(max(names, key=lambda name: table.median(name, "rate") or 0.0))


def _measure(
    table: Table,
    dsn: str,
    rounds: int,
    seconds: float,
    absent: Callable[[type[Peer]], bool],
    work: Callable[[Any], object],
) -> None:
    table.notes.append("psycopg2.pool raises where the others wait: a semaphore goes before it")
    peers: list[Peer] = []
    try:
        for kind in _KINDS:
            if absent(kind):
                table.missing(kind.name)
                continue
            peers.append(kind(Wanted(dsn, CONNECTIONS, timeout=30.0)))
            peers[-1].fill(CONNECTIONS)
        for number in range(rounds):
            for peer in rotated(peers, number):
                table.add(peer.name, **_crowd(peer, seconds, work))
    finally:
        for peer in peers:
            peer.close()


def _crowd(peer: Peer, seconds: float, work: Callable[[Any], object]) -> dict[str, float]:
    """Run the threads; a thread that waits when time is up has waited until it is served."""
    counts = [0] * THREADS
    longest = [0.0] * THREADS
    gate = threading.Barrier(THREADS + 1)
    over = threading.Event()

    def run(number: int) -> None:
        take, give, clock, is_over = peer.take, peer.give, time.perf_counter, over.is_set
        count, worst = 0, 0.0
        gate.wait()
        while not is_over():
            asked = clock()
            conn = take()
            waited = clock() - asked
            if waited > worst:
                worst = waited
            work(conn)
            give(conn)
            count += 1
            counts[number] = count
        longest[number] = worst

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    gate.wait()
    started, before, busy = time.perf_counter(), list(counts), time.process_time()
    time.sleep(seconds)
    took, busy = time.perf_counter() - started, time.process_time() - busy
    done = [count - early for count, early in zip(counts, before, strict=True)]
    over.set()
    for thread in threads:
        thread.join()
    return {
        "rate": sum(done) / took,
        "even": min(done) / max(1, max(done)),
        "longest": max(longest) * 1000,
        "cpu": busy / max(1, sum(done)) * 1e6,
    }
