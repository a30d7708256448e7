"""The ways in which a worker of gunicorn ends: what was answered is there, the rest is not.

Who was answered 200 finds the row, exactly once; a row without an answer is there only where the
answer itself was lost on its way. No session outlives its worker, no transaction is half done.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.sessions import held_lock
from tests.support.waiting import PATIENCE, wait_until
from tests.web_flask.conftest import Database
from tests.web_flask.gunicorn_server import GunicornServer
from tests.web_flask.served_app import LOCK
from tests.web_flask.test_gunicorn import GEVENT, GTHREAD, KILLED_WHEN_STUCK, every_worker


@pytest.fixture(autouse=True)
def no_session_before_and_after(database: Database) -> Iterator[None]:
    wait_until(lambda: database.sessions() == [], message="no session of an earlier test")
    yield
    wait_until(
        lambda: database.sessions() == [],
        message=lambda: f"no session is left: {database.sessions()}",
    )


class Visitors:
    """Threads that ask for one row each, again and again; each row has a text of its own."""

    def __init__(self, server: GunicornServer) -> None:
        self._server = server
        self._over = threading.Event()
        self.kept: list[str] = []  # answered 200
        self.refused: list[str] = []  # answered otherwise
        self.unknown: list[str] = []  # not answered
        self.pairs: set[tuple[str, str]] = set()  # worker and session that answered together
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(4)]

    def _ask(self, mine: int) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            text = f"{mine}-{number}"
            try:
                status, body, _ = self._server.get(f"/who/{text}")
            except OSError:
                self.unknown.append(text)
                continue
            if status != 200:
                self.refused.append(text)
                continue
            worker, session, echo = body.split()
            assert echo == text
            self.kept.append(text)
            self.pairs.add((worker, session))

    def answered(self, more: int) -> None:
        """Wait until so many more have been answered."""
        until = len(self.kept) + more
        wait_until(lambda: len(self.kept) >= until, message=lambda: self._server.log()[-3000:])

    @contextmanager
    def asking(self) -> Iterator[Visitors]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def check(self, database: Database) -> None:
        notes = database.notes()
        assert len(notes) == len(set(notes))
        assert set(self.kept) <= set(notes), "an answered row is lost"
        assert set(notes) <= {*self.kept, *self.unknown}, "a refused row is there"
        # A session that two workers use serves the answers of one to the other.
        assert len({session for _, session in self.pairs}) == len(self.pairs)


@every_worker
def test_under_load_hup_and_recycling_lose_no_answered_row(
    database: Database, tmp_path: Path, worker: tuple[str, ...]
) -> None:
    options = (*worker, "--workers", "2", "--max-requests", "20", "--max-requests-jitter", "10")
    with GunicornServer(database.url, tmp_path, *options) as server:
        first = set(server.workers())
        with Visitors(server).asking() as visitors:
            visitors.answered(60)
            wait_until(lambda: first - set(server.workers()), message="one is recycled")
            before = set(server.workers())
            server.signal(signal.SIGHUP)
            wait_until(lambda: not before & set(server.workers()), message="all workers are new")
            visitors.answered(60)
        # 2 workers with max_size 2: the old ones are gone, and their sessions with them.
        wait_until(lambda: len(database.sessions()) <= 4, message="no more than 2 x max_size")
        assert server.stop() == 0
    visitors.check(database)
    assert visitors.refused == []


@every_worker
def test_a_preloaded_apps_workers_share_no_session(
    database: Database, tmp_path: Path, worker: tuple[str, ...]
) -> None:
    """Although the pool is open in the master, with a session that the app has used there."""
    options = (*worker, "--preload", "--workers", "2")
    with GunicornServer(database.url, tmp_path, *options, SERVED_USES_AT_ONCE="1") as server:
        with Visitors(server).asking() as visitors:
            wait_until(
                lambda: len({pid for pid, _ in visitors.pairs}) == 2,
                message="both workers have answered",
            )
        assert server.stop() == 0
        assert "Traceback" not in server.log()
    visitors.check(database)
    assert (visitors.refused, visitors.unknown) == ([], [])


@every_worker
def test_a_request_in_flight_at_a_hup_is_finished_and_committed_by_the_old_worker(
    database: Database, tmp_path: Path, worker: tuple[str, ...]
) -> None:
    with GunicornServer(database.url, tmp_path, *worker) as server:
        (old,) = server.workers()
        with held_lock(database.dsn, LOCK) as let_go, server.begin("/wait/sql") as client:
            wait_until(lambda: "active" in database.sessions())
            server.signal(signal.SIGHUP)
            wait_until(lambda: set(server.workers()) - {old}, message="a new worker")
            assert server.get("/write/next")[0] == 200
            let_go()
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: old not in server.workers(), message="the old one has gone")
    assert sorted(database.notes()) == ["after a wait in sql", "before a wait in sql", "next"]


@every_worker
@pytest.mark.parametrize("where", ["python", "sql"])
def test_a_request_that_outlasts_the_grace_of_a_polite_end_is_undone(
    database: Database, tmp_path: Path, worker: tuple[str, ...], where: str
) -> None:
    """Killed at last, by GreenletExit in gevent's worker and by SIGKILL in the others."""
    options = (*worker, "--graceful-timeout", "1")
    with held_lock(database.dsn, LOCK), GunicornServer(database.url, tmp_path, *options) as server:
        with server.begin(f"/wait/{where}") as client:
            state = "active" if where == "sql" else "idle in transaction"
            wait_until(lambda: state in database.sessions())
            server.stop()
            client.settimeout(PATIENCE)
            assert not client.recv(100).startswith(b"HTTP/1.1 200")
    wait_until(lambda: database.sessions() == [], message="the server has noticed")
    assert database.notes() == []


def test_a_gevent_worker_that_is_killed_by_its_timeout_leaves_no_half_done_transaction(
    database: Database, tmp_path: Path
) -> None:
    """A view that never lets another greenlet have its turn stops the worker's heartbeat."""
    with GunicornServer(database.url, tmp_path, *GEVENT, *KILLED_WHEN_STUCK) as server:
        with server.begin("/wait/busy") as client:
            wait_until(lambda: "WORKER TIMEOUT" in server.log(), message=server.log)
            client.settimeout(PATIENCE)
            assert not client.recv(100).startswith(b"HTTP/1.1 200")
        assert server.get("/write/next")[0] == 200
        assert server.get("/lent")[1] == "0"
    assert database.notes() == ["next"]


@every_worker
def test_a_worker_that_is_killed_outright_loses_only_what_was_in_flight(
    database: Database, tmp_path: Path, worker: tuple[str, ...]
) -> None:
    with GunicornServer(database.url, tmp_path, *worker, "--workers", "2") as server:
        wait_until(lambda: len(server.workers()) == 2, message="both workers")
        with server.begin("/wait/python") as client:
            wait_until(lambda: "idle in transaction" in database.sessions())
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
            client.settimeout(PATIENCE)
            assert client.recv(100) == b""
        wait_until(
            lambda: "idle in transaction" not in database.sessions(),
            message="the server has noticed",
        )
        assert database.notes() == []
        with Visitors(server).asking() as visitors:
            visitors.answered(20)
    visitors.check(database)


def test_the_workers_of_a_master_that_is_killed_leave_no_session(
    database: Database, tmp_path: Path
) -> None:
    with GunicornServer(database.url, tmp_path, *GTHREAD, "--workers", "2") as server:
        wait_until(lambda: len(server.workers()) == 2, message="both workers")
        workers = [psutil.Process(pid) for pid in server.workers()]
        with Visitors(server).asking() as visitors:
            visitors.answered(20)
            server.signal(signal.SIGKILL)
            _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
            assert alive == []
    visitors.check(database)
