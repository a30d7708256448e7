"""Under a real server: what the client is told, and what is left behind."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.sessions import held_lock
from tests.support.waiting import wait_until
from tests.web_flask.conftest import Database
from tests.web_flask.gunicorn_server import GunicornServer
from tests.web_flask.served_app import LOCK

SYNC = ("--worker-class", "sync")
GTHREAD = ("--worker-class", "gthread", "--threads", "4")
GEVENT = ("--worker-class", "gevent")
# The app is loaded before, so that to boot takes a worker no time that counts.
KILLED_WHEN_STUCK = ("--preload", "--timeout", "2")
every_worker = pytest.mark.parametrize(
    "worker",
    [
        pytest.param(SYNC, id="sync", marks=pytest.mark.exhaustive),  # one request at a time
        pytest.param(GTHREAD, id="gthread"),
        pytest.param(GEVENT, id="gevent"),
    ],
)


@pytest.fixture(autouse=True)
def nothing_left_on_the_server(database: Database) -> None:
    wait_until(lambda: database.sessions() == [], message="no session of an earlier test")


@every_worker
def test_a_failing_commit_is_told_to_the_client(
    database: Database, tmp_path: Path, worker: tuple[str, ...]
) -> None:
    with GunicornServer(database.url, tmp_path, *worker) as server:
        for _ in range(3):
            for kind in ("plain", "stream", "context"):
                status, body, headers = server.get(f"/violate/{kind}")
                assert (status, body) == (500, "sorry")
                assert headers["Access-Control-Allow-Origin"] == "*"
                assert server.get("/write/kept")[0] == 200
        assert server.get("/lent")[1] == "0"
        assert server.stop() == 0
        wait_until(lambda: database.sessions() == [], message="no session is left")
    assert database.notes() == ["kept"] * 9


@every_worker
def test_a_streams_client_that_goes_away_gives_the_connection_back(
    database: Database, tmp_path: Path, worker: tuple[str, ...]
) -> None:
    with GunicornServer(database.url, tmp_path, *worker) as server:
        for _ in range(4):  # more than max_size
            client = server.begin("/stream")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            client.close()
        wait_until(lambda: server.get("/lent")[1] == "0", message="all are back")
        assert "idle in transaction" not in database.sessions()
    assert database.notes() == ["stream"] * 4


@pytest.mark.parametrize("where", ["python", "sql"])
def test_a_worker_that_is_killed_by_its_timeout_leaves_no_half_done_transaction(
    database: Database, tmp_path: Path, where: str
) -> None:
    """In Python SystemExit reaches the view; in a statement the worker just dies."""
    options = (*SYNC, *KILLED_WHEN_STUCK)
    with held_lock(database.dsn, LOCK), GunicornServer(database.url, tmp_path, *options) as server:
        with server.begin(f"/wait/{where}") as client:
            client.recv(100)
            wait_until(lambda: "Booting worker" in server.log().split("WORKER TIMEOUT")[-1])
            assert server.get("/write/next")[0] == 200
    wait_until(lambda: database.sessions() == [], message="no session is left")
    assert database.notes() == ["next"]


@every_worker
def test_a_request_in_flight_is_finished_and_committed_before_a_polite_end(
    database: Database, tmp_path: Path, worker: tuple[str, ...]
) -> None:
    with GunicornServer(database.url, tmp_path, *worker) as server:
        with server.begin("/wait/python") as client:
            wait_until(lambda: "idle in transaction" in database.sessions())
            server.signal(signal.SIGTERM)
            wait_until(lambda: "Handling signal: term" in server.log())
            server.go()
            assert server.stop() == 0
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    wait_until(lambda: database.sessions() == [], message="no session is left")
    assert database.notes() == ["before a wait in python", "after a wait in python"]


def test_a_preloaded_app_serves_in_every_worker_on_sessions_of_its_own(
    database: Database, tmp_path: Path
) -> None:
    with GunicornServer(database.url, tmp_path, *GTHREAD, "--preload", "--workers", "2") as server:
        wait_until(lambda: len(server.workers()) == 2, message="both workers")
        for number in range(20):
            assert server.get(f"/write/{number}")[0] == 200
        assert server.stop() == 0
    wait_until(lambda: database.sessions() == [], message="no session is left")
    assert len(database.notes()) == 20
    assert "Traceback" not in server.log()


def test_a_restart_by_hup_and_workers_that_are_recycled_lose_nothing(
    database: Database, tmp_path: Path
) -> None:
    options = (*SYNC, "--workers", "2", "--max-requests", "5")
    with GunicornServer(database.url, tmp_path, *options) as server:
        wait_until(lambda: len(server.workers()) == 2, message="both workers")
        first = set(server.workers())
        for number in range(30):
            assert server.get(f"/write/{number}")[0] == 200
            if number == 15:
                server.signal(signal.SIGHUP)
        wait_until(lambda: not first & set(server.workers()), message="new workers")
        assert server.get("/write/30")[0] == 200
        wait_until(lambda: len(database.sessions()) <= 4, message="no more than 2 x max_size")
    wait_until(lambda: database.sessions() == [], message="no session is left")
    assert len(database.notes()) == 31
