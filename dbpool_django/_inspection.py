"""What can be learnt from a database about the pool that its settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbpool import options
from dbpool.adapters import looks_alive, monotonic

from . import _environment, _settings

__all__ = ["ServerFacts", "Timings", "effective_options", "measure", "server_facts"]

# "Others" are client sessions that are not of the pools of this alias.
_FACTS = """
SELECT current_setting('server_version'),
       current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true), '0')::int,
       (SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
           AND application_name IS DISTINCT FROM %s),
       (SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'),
       pg_backend_pid()
"""


@dataclass(frozen=True)
class ServerFacts:
    """What the server says; numbers are sessions."""

    version: str
    max_connections: int
    reserved: int
    others: int
    time_zone: str
    pooler: bool  # something between here and the server speaks for it

    @property
    def room(self) -> int:
        """How many sessions our pools can have."""
        return self.max_connections - self.reserved - self.others


@dataclass(frozen=True)
class Timings:
    """Milliseconds, the median of some rounds each."""

    connect: float
    ping: float
    checkout: float


def server_facts(wrapper: Any) -> ServerFacts:
    """Ask the server of a PostgreSQL wrapper, in one query."""
    with wrapper.temporary_connection() as cursor:
        name = wrapper.connection.info.parameter_status("application_name")
        cursor.execute(_FACTS, [name])
        version, most, reserved, others, zone, pid = cursor.fetchone()
        # A pooler hands its clients keys of its own, to cancel queries with.
        pooler = wrapper.connection.info.backend_pid != pid
    return ServerFacts(version, most, reserved, others, zone, pooler)


def measure(wrapper: Any, rounds: int) -> Timings:
    """Time connecting (at most five times), a round trip, and taking and giving back."""
    supplier = wrapper._dbpool_supplier()
    opener, connect = supplier.opener, []
    asked: dict[str, Any] = {
        "timeout": supplier.pool.settings.connect_timeout,
        "name": f"dbpool:{supplier.pool.name}",
    }
    for _ in range(min(rounds, 5)):
        begin = monotonic()
        found = opener.parameters("", {}, settings={}, last_host=None, primary=False, **asked)
        conn = opener.connect("", found.kwargs, **asked)
        connect.append(monotonic() - begin)
        opener.close(conn)
    wrapper.ensure_connection()
    ping = _timed(lambda: opener.ping(wrapper.connection), rounds)
    wrapper.close()

    def checkout() -> None:
        wrapper.ensure_connection()
        wrapper.close()

    return Timings(_median(connect), _median(ping), _median(_timed(checkout, rounds)))


def _timed(step: Callable[[], object], rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        begin = monotonic()
        step()
        found.append(monotonic() - begin)
    return found


def _median(seconds: list[float]) -> float:
    return round(sorted(seconds)[len(seconds) // 2] * 1000, 4)


def looks_work(wrapper: Any) -> bool:
    """Return whether a dead connection can be told from a live one without a round trip."""
    wrapper.ensure_connection()
    try:
        return looks_alive(wrapper._dbpool_supplier().opener, wrapper.connection)
    finally:
        wrapper.close()


def effective_options(wrapper: Any) -> dict[str, Any]:
    """Return every option of the pool with its value; callables by their name."""
    given = _settings.pool_options(wrapper.settings_dict, wrapper.alias)
    reset = given.setdefault("reset", wrapper._dbpool_reset)
    core = {name: value for name, value in given.items() if name in options.OPTIONS}
    if reset == "auto":
        del core["reset"]
    values = {**options.checked(core), "release": "request", **given}
    values["max_size"] = options.sizes(values["min_size"], values["max_size"])[1]
    del values["open"]
    return {name: _shown(value) for name, value in values.items()}


def _shown(value: Any) -> Any:
    if not callable(value):
        return value
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else "?"


def sessions_at_most(wrapper: Any) -> tuple[int, int]:
    """Return how many processes are expected (1 if nobody says), and their sessions at most."""
    processes = _environment.processes() or 1
    return processes, processes * wrapper.pool.max_size
