"""A driver that counts and can be held up, and short words for asking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dbpool import ConnectionPool
from dbpool.drivers.psycopg2 import Psycopg2Driver
from dbpool.health import HealthCheck
from tests.support import inside
from tests.support.waiting import PATIENCE, wait_until

__all__ = ["CountingDriver", "ask", "check_of", "forget_proof", "idle", "landed", "patient", "why"]


class CountingDriver(Psycopg2Driver):
    """psycopg2, counting the health queries and spare connections; `on_probe` runs before each."""

    def __init__(self) -> None:
        self.probes = 0
        self.spares = 0
        self.writable = True
        self.on_probe: Callable[[], object] = int
        self._lock = threading.Lock()

    def connect(
        self, conninfo: str, kwargs: Mapping[str, Any], *, timeout: float, name: str
    ) -> Any:
        if name.startswith("dbpool-health:"):
            with self._lock:
                self.spares += 1
        return super().connect(conninfo, kwargs, timeout=timeout, name=name)

    def probe(self, conn: Any) -> bool:
        with self._lock:
            self.probes += 1
        self.on_probe()
        return super().probe(conn) and self.writable


# How long an answer takes is not what is tested, where a test does not say so itself.
patient = partial(HealthCheck, deadline=PATIENCE, slow=PATIENCE)


def check_of(pool: ConnectionPool, **options: Any) -> HealthCheck:
    return patient(lambda: {"default": pool}, **options)


def ask(check: HealthCheck) -> tuple[str, tuple[str, ...]]:
    """Return state and reasons, as one request finds them."""
    verdicts = inside.verdicts(check)
    assert verdicts is not None
    (verdict,) = verdicts.values()
    return verdict.status, verdict.reasons


def why(check: HealthCheck) -> str:
    """Return the reason for which the check fails."""
    status, (reason,) = ask(check)
    assert status == "fail"
    return reason


def landed(pool: ConnectionPool) -> bool:
    """Return whether no probe is under way."""
    return inside.peek(inside.prober_of(pool), "flight") is None


def forget_proof(pool: ConnectionPool, *findings: str) -> None:
    """Let what was seen so far be too old to prove anything.

    Arguments: `findings`, which of the prober's are forgotten; "last" and "good" if none is named.
    """
    wait_until(lambda: landed(pool), message="the probe comes back")
    long_ago = time.monotonic() - 60
    inside.put(pool, proved_at=min(inside.proved_at(pool), long_ago))
    prober = inside.prober_of(pool)
    for name in findings or ("last", "good"):
        seen = inside.peek(prober, name)
        if seen is not None:
            inside.put(prober, **{name: seen._replace(at=long_ago)})


def idle(pool: ConnectionPool, count: int) -> None:
    """Leave that many connections idle in the pool."""
    lent = [pool.getconn() for _ in range(count)]
    for connection in lent:
        pool.putconn(connection)
