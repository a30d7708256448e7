"""One thread takes an idle connection and gives it back: what a pool costs when all is well."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import repeat
from os import getpid
from time import perf_counter
from typing import Any

from benchmarks._others import DbpoolPsycopg, DBUtilsPool, PsycopgPool, SQLAlchemyPool
from benchmarks._peers import BareQueue, Dbpool, LocksAndDeque, Peer, Psycopg2Pool, Wanted
from benchmarks._report import Column, Table, rotated
from tests.support import inside

__all__ = ["measure"]

# Short, so that many slices lie between two moments in which the machine does something else.
SLICE = 0.0005
LOOKING = "dbpool, a look at the socket each time"
BLOCK = "dbpool, with pool.connection()"
LOOK = "for comparison: a look whether there was a fork"
NUMBER = "for comparison: os.getpid(), where the kernel wipes no page"
PEER_BLOCK = "psycopg_pool, with pool.connection()"


def measure(dsn: str, rounds: int, absent: Callable[[type[Peer]], bool]) -> Table:
    """Time each pool for SLICE seconds per round."""
    table = Table(
        "idle", "Acquire and return an idle connection, one thread", (Column("us", "µs", "{:.3f}"),)
    )
    wanted = Wanted(dsn, 1, plain=True)
    opened: list[Peer] = []
    timed: list[tuple[str, Callable[[int], float]]] = []
    kinds = (
        Dbpool,
        Psycopg2Pool,
        PsycopgPool,
        DbpoolPsycopg,
        SQLAlchemyPool,
        DBUtilsPool,
        BareQueue,
        LocksAndDeque,
    )
    try:
        for kind in kinds:
            if absent(kind):
                table.missing(kind.name)
                continue
            peer = kind(wanted)
            opened.append(peer)
            if isinstance(peer, Psycopg2Pool):
                peer.without_semaphore()
            peer.fill(1)
            timed.append((kind.name, _pairs(peer.take, peer.give)))
            if kind is Dbpool:
                timed.append((BLOCK, _blocks(peer.lend)))
                looking = Dbpool(wanted, validate_after=0)
                opened.append(looking)
                looking.fill(1)
                timed.append((LOOKING, _pairs(looking.take, looking.give)))
            elif isinstance(peer, PsycopgPool):
                timed.append((PEER_BLOCK, _blocks(peer.lend)))
        timed += [(LOOK, _looks), (NUMBER, _numbers)]
        # Warm, and see how many cycles a slice has room for.
        cycles = {name: 1 + int(SLICE / min(run(500), run(500))) for name, run in timed}
        for number in range(rounds):
            for name, run in rotated(timed, number):
                table.add(name, us=run(cycles[name]) * 1e6)
    finally:
        for peer in opened:
            peer.close()
    _judge(table)
    return table


def _pairs(take: Callable[[], Any], give: Callable[[Any], object]) -> Callable[[int], float]:
    def run(cycles: int) -> float:
        started = perf_counter()
        for _ in repeat(None, cycles):
            give(take())
        return (perf_counter() - started) / cycles

    return run


def _looks(cycles: int) -> float:
    unforked, start_anew = inside.unforked, inside.start_anew
    started = perf_counter()
    for _ in repeat(None, cycles):
        unforked or start_anew()
    looked = perf_counter()
    for _ in repeat(None, cycles):
        pass
    return max(0.0, 2 * looked - started - perf_counter()) / cycles


def _numbers(cycles: int) -> float:
    started = perf_counter()
    for _ in repeat(None, cycles):
        getpid()
    return (perf_counter() - started) / cycles


def _blocks(lend: Callable[[], AbstractContextManager[Any]]) -> Callable[[int], float]:
    def run(cycles: int) -> float:
        started = perf_counter()
        for _ in repeat(None, cycles):
            with lend():
                pass
        return (perf_counter() - started) / cycles

    return run


def _judge(table: Table) -> None:
    table.notes.append(
        "dbpool with statistics, lifetime and checks on; psycopg_pool works on psycopg 3, the "
        "others on psycopg2"
    )
    table.notes.append(
        "goals: from each pool's fastest eighth of the rounds, which is the least disturbed one"
    )
    ours = Dbpool.name
    for other, most in ((Psycopg2Pool.name, 0.75), (PsycopgPool.name, 0.25)):
        text = f"dbpool <= {most} x {other}"
        table.goal(text, table.ratio_of_best(ours, other, "us"), most=most)
    text = "a look whether there was a fork <= 0.040 µs"
    table.goal(text, table.median(LOOK, "us"), most=0.040, form="{:.3f}")
