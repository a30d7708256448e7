"""Where a scenario plays: the servers and the network, how they break, and how they heal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2

from testproject.postgres import PostgresServer
from tests.outages.crowd import PROCESSES, SIZE, Crowd
from tests.outages.network import Network
from tests.support.fault_proxy import FaultProxy
from tests.support.pgbouncer import PgBouncer
from tests.support.standby import both, make_pair, promote, wait_caught_up
from tests.support.waiting import wait_until

__all__ = ["SETTINGS", "Stage"]

NAME = "crowd"  # of the crowd's sessions on the server
# One that follows a restart must not wait for a checkpoint; and nobody's sessions but the crowd's.
SETTINGS = {"max_connections": "60", "autovacuum": "off"}


@dataclass
class Stage:
    """A crowd's address, and the verbs of one scenario. `heal` returns when the server accepts."""

    dsn: str
    fault: Callable[[Crowd], object]
    heal: Callable[[Crowd], object] = lambda crowd: None
    inside: Sequence[str] = ()
    write: bool = False  # whether the crowd's calls write
    measured: dict[str, float] = field(default_factory=dict)  # what only this stage can see
    bit: bool | None = None  # whether the fault hit the crowd, where its calls need not show it


def _server(stack: ExitStack, **conf: object) -> PostgresServer:
    return stack.enter_context(PostgresServer(conf={**SETTINGS, **conf}))


def _dsn(server: PostgresServer, **overrides: object) -> str:
    return server.dsn(fallback_application_name=NAME, **overrides)


def stop_fast(stack: ExitStack) -> Stage:
    """The server is stopped, ending its sessions, and started again."""
    server = _server(stack)
    return Stage(_dsn(server), lambda _: server.stop("fast"), lambda _: server.start())


def stop_immediate(stack: ExitStack) -> Stage:
    """The same as a crash."""
    server = _server(stack)
    return Stage(_dsn(server), lambda _: server.stop("immediate"), lambda _: server.start())


def kill_postmaster(stack: ExitStack) -> Stage:
    """The server's first process is killed."""
    server = _server(stack)
    return Stage(_dsn(server), lambda _: server.kill9(), lambda _: server.start())


def restart(stack: ExitStack) -> Stage:
    """The server is restarted under load."""
    server = _server(stack)
    return Stage(_dsn(server), lambda _: server.stop("fast"), lambda _: server.start())


def kill_backend(stack: ExitStack) -> Stage:
    """One session's process is killed: PostgreSQL ends all of them, and recovers by itself."""
    server = _server(stack)

    def fault(_: Crowd) -> None:
        pids = _sessions(server)
        os.kill(pids[0], signal.SIGKILL)
        # Complete when the others have gone, too: their calls till then were in flight.
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    return Stage(_dsn(server), fault, lambda _: server.ensure_running())


def terminate(stack: ExitStack) -> Stage:
    """An administrator ends one session."""
    server = _server(stack)

    def fault(_: Crowd) -> None:
        server.sql(f"SELECT pg_terminate_backend({_sessions(server)[0]})")

    return Stage(_dsn(server), fault)


def freeze(stack: ExitStack) -> Stage:
    """All processes of the server stop; its kernel goes on acknowledging."""
    server = _server(stack)
    return Stage(_dsn(server), lambda _: server.freeze(), lambda _: server.thaw())


def drop(stack: ExitStack) -> Stage:
    """Packets vanish on the way, both ways."""
    server, network = _networked(stack)
    return Stage(
        _dsn(server, host=network.host),
        lambda _: network.drop(),
        lambda _: network.heal(),
        network.inside,
    )


def reject(stack: ExitStack) -> Stage:
    """A firewall answers with resets."""
    server, network = _networked(stack)
    return Stage(
        _dsn(server, host=network.host),
        lambda _: network.reject(),
        lambda _: network.heal(),
        network.inside,
    )


def grey(stack: ExitStack) -> Stage:
    """Answers take 200 ms longer, and 5 % of the packets are lost."""
    server, network = _networked(stack)
    proxy = stack.enter_context(FaultProxy(("127.0.0.1", server.port), host=network.host))

    def fault(_: Crowd) -> None:
        proxy.delay = 0.1  # each way
        network.lose(5)

    def heal(_: Crowd) -> None:
        proxy.delay = 0.0
        network.heal()

    return Stage(_dsn(server, host=proxy.host, port=proxy.port), fault, heal, network.inside)


def resets(stack: ExitStack) -> Stage:
    """Something on the way resets every connection, once."""
    server = _server(stack)
    proxy = stack.enter_context(FaultProxy(("127.0.0.1", server.port)))
    return Stage(_dsn(server, port=proxy.port), lambda _: proxy.reset())


def half_open(stack: ExitStack) -> Stage:
    """Something on the way ends every connection towards the client only."""
    server = _server(stack)
    proxy = stack.enter_context(FaultProxy(("127.0.0.1", server.port)))
    return Stage(_dsn(server, port=proxy.port), lambda _: proxy.half_close("client"))


def cut_short(stack: ExitStack) -> Stage:
    """An answer ends in the middle."""
    server = _server(stack)
    proxy = stack.enter_context(FaultProxy(("127.0.0.1", server.port)))
    return Stage(_dsn(server, port=proxy.port), lambda _: proxy.cut("s2c", 20))


def black_hole(stack: ExitStack) -> Stage:
    """Something on the way acknowledges everything, and passes nothing on."""
    server = _server(stack)
    proxy = stack.enter_context(FaultProxy(("127.0.0.1", server.port)))
    return Stage(
        _dsn(server, port=proxy.port), lambda _: proxy.blackhole(), lambda _: proxy.restore()
    )


def slow_accept(stack: ExitStack) -> Stage:
    """Every connection is lost, and a new one takes a second."""
    server = _server(stack)
    proxy = stack.enter_context(FaultProxy(("127.0.0.1", server.port)))

    def fault(_: Crowd) -> None:
        proxy.accept_delay = 1.0
        proxy.reset()

    def heal(_: Crowd) -> None:
        proxy.accept_delay = 0.0

    return Stage(_dsn(server, port=proxy.port), fault, heal)


def promotion(stack: ExitStack) -> Stage:
    """The primary dies and its standby takes over."""
    primary, standby = make_pair(SETTINGS)
    stack.callback(primary.destroy)
    stack.callback(standby.destroy)
    primary.sql("CREATE TABLE seen (token bigint)")

    def fault(_: Crowd) -> None:
        wait_caught_up(primary)
        primary.kill9()

    return Stage(
        both(primary, standby, fallback_application_name=NAME),
        fault,
        lambda _: promote(standby),
        write=True,
    )


def demotion(stack: ExitStack) -> Stage:
    """The server becomes read-only while sessions are open, and writable again."""
    server = _server(stack)
    server.sql("CREATE TABLE seen (token bigint)")

    def read_only(state: str) -> None:
        server.sql(f"ALTER SYSTEM SET default_transaction_read_only = {state}")
        server.reload()
        # A new session has it once the server has told all others.
        wait_until(lambda: server.sql("SHOW default_transaction_read_only") == state)

    return Stage(
        _dsn(server, target_session_attrs="read-write"),
        lambda _: read_only("on"),
        lambda _: read_only("off"),
        write=True,
    )


def too_many(stack: ExitStack) -> Stage:
    """Others take sessions until there are too few for the crowd; later they leave."""
    server = _server(stack, max_connections="20")
    others = ExitStack()
    stack.callback(others.close)
    # One more than all processes but one can take: each pool of the crowd has one that lives.
    places = (PROCESSES - 1) * SIZE + 1
    taken = [
        others.enter_context(closing(psycopg2.connect(server.dsn(application_name="others"))))
        for _ in range(20 - places)
    ]

    def fault(_: Crowd) -> None:
        with taken[0].cursor() as cursor:  # there is no room for psql
            cursor.execute(_OF_THE_CROWD)
            stage.bit = 0 < cursor.rowcount < PROCESSES * SIZE

    stage = Stage(_dsn(server), fault)

    def heal(_: Crowd) -> None:
        others.close()
        left = time.monotonic()
        until = left + 60
        while len(_sessions(server)) < PROCESSES * SIZE and time.monotonic() < until:
            time.sleep(0.1)
        stage.measured["grown"] = time.monotonic() - left

    stage.heal = heal
    return stage


def paused(stack: ExitStack) -> Stage:
    """An operator pauses the pools, restarts the server, and resumes them."""
    server = _server(stack)

    def fault(crowd: Crowd) -> None:
        crowd.tell("pause")
        server.restart()
        crowd.tell("resume")

    return Stage(_dsn(server), fault)


def pooler_paused(stack: ExitStack) -> Stage:
    """An operator pauses PgBouncer, restarts the server behind it, and resumes it."""
    server = _server(stack)
    # In transaction mode, half as many sessions as the crowd has connections: in session mode PAUSE
    # waits until the clients have gone.
    pooler = stack.enter_context(PgBouncer(server, "transaction", size=PROCESSES * SIZE // 2))

    def fault(_: Crowd) -> None:
        stage.bit = bool(_sessions(server))  # none of them outlives the restart
        pooler.admin("PAUSE")
        server.restart()
        pooler.admin("RESUME")

    stage = Stage(pooler.dsn(), fault)
    return stage


def _networked(stack: ExitStack) -> tuple[PostgresServer, Network]:
    network = stack.enter_context(Network())
    server = PostgresServer(conf={**SETTINGS, "listen_addresses": f"127.0.0.1,{network.host}"})
    stack.callback(server.destroy)
    server.allow(f"{network.host}/30")
    return server.start(), network


_OF_THE_CROWD = """
    SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'
    AND pid <> pg_backend_pid() AND application_name <> 'others'
"""


def _sessions(server: PostgresServer) -> list[int]:
    """Return the process ids of the crowd's sessions."""
    return [int(row) for row in server.sql(_OF_THE_CROWD).split()]
