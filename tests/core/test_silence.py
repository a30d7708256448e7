"""A server that was silent is noticed as soon as it answers, not with a connect's next packet."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.black_hole import BlackHole
from tests.support.callers import PATIENCE, MakePool, expect_full_capacity, in_thread
from tests.support.lost_packets import LossyLink, missing
from tests.support.servers import Postgres
from tests.support.waiting import wait_until


def test_where_no_descriptor_is_left_the_connect_itself_is_to_find_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(*_: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", none_left)
        assert inside.accepts([("127.0.0.1", "1")], PATIENCE) is True


@pytest.mark.outage
@pytest.mark.skipif(bool(missing()), reason=missing() or "it is all there")
def test_it_is_heard_before_a_connect_repeats_its_first_packet() -> None:
    with BlackHole() as server, LossyLink(("127.0.0.1", server.port)) as link:
        link.lose()
        plain = socket.socket()
        plain.settimeout(PATIENCE)
        began = time.monotonic()
        connecting = in_thread(plain.connect, (link.host, link.port))
        knocking = in_thread(inside.accepts, [(link.host, str(link.port))], PATIENCE)
        # Kernels send first packets after 0, 1, 3, 7, 15 s, from Linux 6.5 on after 0, 1, 2, 3, 4,
        # 5, 7, 11 s.
        wait_until(lambda: time.monotonic() - began > 7.5, PATIENCE)
        assert not connecting.done()
        assert not knocking.done()
        link.heal()
        assert knocking.result(PATIENCE) is True
        assert not connecting.done(), "it took as long as the kernel's own next packet"
        plain.shutdown(socket.SHUT_RDWR)
        with pytest.raises(OSError):
            connecting.result(PATIENCE)
        plain.close()


@contextmanager
def full_listener() -> Iterator[str]:
    """Yield a port that takes no more: the kernel drops further first packets."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        time.sleep(0.05)
        yield str(port)


def test_silence_ends_with_the_time_that_a_connect_has() -> None:
    with full_listener() as port:
        assert inside.accepts([("127.0.0.1", port)], 0.7) is False


def test_what_listens_or_refuses_or_cannot_be_looked_up_is_left_to_the_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert inside.accepts([("127.0.0.1", port)], PATIENCE)
    assert inside.accepts([("127.0.0.1", port)], PATIENCE), "refused"
    assert inside.accepts([("no.such.host.invalid", port)], PATIENCE)
    assert inside.accepts([], PATIENCE)


def test_one_packet_tells_what_a_host_does_with_a_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        here, lost = ("127.0.0.1", port), ("no.such.host.invalid", port)
        assert inside.met([here], PATIENCE) == "accepted"
        assert inside.met([lost, here], PATIENCE) == "accepted", "the best of them counts"
    assert inside.met([here], PATIENCE) == "refused"
    assert inside.met([lost, here], PATIENCE) == "refused"
    with full_listener() as port:
        assert inside.met([here, ("127.0.0.1", port)], 0.2) == "refused", "it waits for no other"
    assert inside.met([lost], PATIENCE) == "no name"
    assert inside.met([("x" * 70, port)], PATIENCE) == "no name"
    assert inside.met([], PATIENCE) == "accepted", "let the connect find out"
    with full_listener() as port:
        assert inside.met([("127.0.0.1", port)], 0.2) == "silence"


@pytest.mark.parametrize("name", ["EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ETIMEDOUT"])
def test_a_host_that_cannot_be_reached_has_answered_nothing(name: str) -> None:
    assert inside.met_with(getattr(errno, name)) == "silence"


@pytest.mark.parametrize(
    ("given", "endpoints"),
    [
        ({"host": "db", "port": "6000"}, [("db", "6000")]),
        ({"host": "db"}, [("db", "5432")]),
        ({"host": "a,b", "port": "1,2"}, [("a", "1"), ("b", "2")]),
        ({"host": "a,b", "port": "1"}, [("a", "1"), ("b", "1")]),
        ({"host": "db", "hostaddr": "10.0.0.1"}, [("10.0.0.1", "5432")]),
        ({"host": "a,b", "port": "1,2,3"}, []),
        ({"host": "/run/postgresql"}, []),
        ({"host": "/run/postgresql,db", "port": "1,2"}, []),
        ({"service": "shop"}, []),
        ({}, []),
    ],
)
def test_the_hosts_are_those_of_the_conninfo(
    given: dict[str, str], endpoints: list[tuple[str, str]]
) -> None:
    assert inside.endpoints(inside.address(given, {})) == endpoints


def silent_for_long(pool: ConnectionPool) -> None:
    """Leave the pool as two connects into silence do, without the time that they take."""
    error = pool.driver.OperationalError("timeout expired")
    failure = inside.Failure(error, "connect_timeout", silent=True)
    now = time.monotonic()
    for _ in range(2):
        inside.connect_failed(pool, now, now - 5.0, failure, alive=False)
    assert pool.state == "down"


def test_the_prober_connects_when_something_answers(
    postgres: Postgres, new_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = [False, False, True]
    asked: list[Sequence[tuple[str, str]]] = []

    def answers(endpoints: Any, seconds: float) -> bool:
        asked.append(endpoints)
        assert seconds == PATIENCE
        return answered[len(asked) - 1]

    inside.patch(monkeypatch, "accepts", answers)
    pool = new_pool(postgres.dsn(), timeout=PATIENCE, down_wait=PATIENCE, connect_timeout=PATIENCE)
    silent_for_long(pool)
    pool.putconn(pool.getconn())
    assert len(asked) == 3
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["connections_errors"]) == (3, 2)
    expect_full_capacity(pool)
    assert len(asked) == 3, "a server that answers is not asked whether it does"
