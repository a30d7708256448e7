"""Exceptions out of nowhere, as Ctrl-C, greenlet timeouts and task limits raise them.

Eight threads borrow, hold and return; a ninth raises a BaseException in one of them every 2 ms.
Afterwards every connection should be there for the asking. Each pool has a process of its own,
because what is left of it may be stuck.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import random
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks._others import DBUtilsPool, PsycopgPool, SQLAlchemyPool
from benchmarks._peers import Dbpool, Peer, Wanted
from benchmarks._report import Column, Table

__all__ = ["measure"]

THREADS = 8
SLOTS = 4
EVERY = 0.002
HOLD = 0.0002
TIMEOUT = 2.0

_KINDS = (Dbpool, PsycopgPool, SQLAlchemyPool, DBUtilsPool)


class Interrupt(BaseException):
    """What is raised; no pool can know it."""


def measure(dsn: str, ours: int, theirs: int, absent: Callable[[type[Peer]], bool]) -> Table:
    """Raise `ours` exceptions into dbpool's users, `theirs` into those of each other pool."""
    table = Table(
        "exceptions",
        f"An exception every {EVERY * 1000:.0f} ms in one of {THREADS} threads on {SLOTS} "
        "connections",
        (
            Column("raised", "exceptions", "{:.0f}"),
            Column("left", f"slots left of {SLOTS}", "{:.0f}"),
            Column("served", "loans meanwhile", "{:.0f}"),
        ),
    )
    for kind in _KINDS:
        if absent(kind):
            table.missing(kind.name)
            continue
        wanted = ours if kind is Dbpool else theirs
        found = _in_a_process(kind, dsn, wanted)
        if isinstance(found, str):
            table.missing(kind.name, found)
        else:
            table.add(kind.name, **found)
    table.goal(
        f"dbpool: {SLOTS} of {SLOTS} left after {ours}",
        table.median(Dbpool.name, "left") if Dbpool.name in table.rows else 0.0,
        least=SLOTS,
        form="{:.0f}",
    )
    return table


def _in_a_process(kind: type[Peer], dsn: str, wanted: int) -> dict[str, float] | str:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(kind, dsn, wanted, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(30.0 + 10 * wanted * EVERY):
            return "hung: gave no answer in time"
        found: dict[str, float] = receiver.recv()
        return found
    except EOFError:
        return "the process died"
    finally:
        process.kill()
        process.join()


def _child(kind: type[Peer], dsn: str, wanted: int, sender: Connection) -> None:
    # Threads and finalisers that die of an Interrupt do so quietly.
    threading.excepthook = _quiet
    sys.unraisablehook = _quiet
    logging.getLogger().addHandler(logging.NullHandler())
    peer = kind(Wanted(dsn, SLOTS, TIMEOUT))
    peer.fill(SLOTS)
    storm = _Storm(peer)
    storm.rage(wanted)
    sender.send({"raised": storm.raised, "left": _slots_left(peer), "served": storm.served()})


def _quiet(args: Any) -> None:
    if args.exc_type is not None and not issubclass(args.exc_type, Interrupt | Exception):
        sys.__excepthook__(args.exc_type, args.exc_value, args.exc_traceback)


class _Storm:
    """The threads, which start again when they die, and the exceptions that kill them."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.over = False
        self.raised = 0
        self._served = [[0] for _ in range(THREADS)]
        self._threads = [self._start(number) for number in range(THREADS)]

    def rage(self, wanted: int) -> None:
        """Return when `wanted` exceptions have been raised and all threads have ended."""
        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        while self.raised < wanted:
            time.sleep(EVERY)
            number = random.randrange(THREADS)
            thread = self._threads[number]
            if not thread.is_alive():
                self._threads[number] = thread = self._start(number)
            self.raised += raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupt))
        self.over = True
        _join(self._threads)

    def served(self) -> int:
        return sum(count for (count,) in self._served)

    def _start(self, number: int) -> threading.Thread:
        thread = threading.Thread(target=self._use, args=(self._served[number],), daemon=True)
        thread.start()
        return thread

    def _use(self, served: list[int]) -> None:
        while not self.over:
            try:
                with self.peer.lend():
                    time.sleep(random.random() * HOLD)
                served[0] += 1
            except (Interrupt, Exception):  # noqa: BLE001 - a pool in ruins may raise anything
                pass


def _slots_left(peer: Peer) -> int:
    """Return how many connections can be had at once, each within twice the pool's timeout."""
    gc.collect()
    taken: list[Any] = []
    asking = [
        threading.Thread(target=lambda: taken.append(peer.take()), daemon=True)
        for _ in range(SLOTS)
    ]
    for thread in asking:
        thread.start()
    _join(asking)
    return len(taken)


def _join(threads: list[threading.Thread]) -> None:
    """Wait for the threads, though not for ever: some pools have no timeout."""
    until = time.monotonic() + 2 * TIMEOUT
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
