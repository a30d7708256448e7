"""The situations of the golden exchanges: where a pool connects, and what is done to it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolTimeout, health
from tests.support.black_hole import BlackHole
from tests.support.servers import Postgres

__all__ = ["OPTIONS", "place", "settled"]

OPTIONS: dict[str, Any] = {"max_size": 1, "connect_timeout": 2.0}  # of the pools here


@contextmanager
def place(situation: str, postgres: Postgres) -> Iterator[str]:
    """Yield the URL that a pool in this situation connects to."""
    if situation == "down":
        # Bound, so that nobody else takes the port, but not listening.
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            yield f"postgresql://app:hush@127.0.0.1:{nobody.getsockname()[1]}/shop"
    elif situation == "black hole":
        with BlackHole() as hole:
            yield hole.url
    else:
        yield postgres.url()


@contextmanager
def settled(situation: str, pool: ConnectionPool) -> Iterator[None]:
    """Bring the pool, or this process, into the situation; and out of it again."""
    if situation == "saturated":
        with pool.connection():
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0)
            yield
    elif situation == "draining":
        health.set_draining()
        try:
            yield
        finally:
            health.set_draining(False)
    else:
        yield
