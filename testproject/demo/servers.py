"""What the demo starts: the database of the shop, and each shop under gunicorn."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from psycopg2.extensions import parse_dsn

from testproject.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "testproject"
DATABASE = "shop"
STOCK = 1_000_000  # of each product to begin with


@dataclass(frozen=True)
class App:
    """One of the two shops. Each has a role of its own, by which its sessions can be told."""

    name: str
    role: str
    target: str


DJANGO = App("Django", "shop_django", "shop_django.wsgi")
FLASK = App("Flask", "shop_flask", "flask_app:create_app()")
APPS = (DJANGO, FLASK)

# As gunicorn.conf.py, settings.py and flask_app.py have it; a test compares them.
WORKERS = 2
MAX_SIZE = 4
MOST_SESSIONS = WORKERS * MAX_SIZE


def environment(dsn: str, url: str) -> dict[str, str]:
    """Return the variables by which Django (from the libpq string) and Flask find a database."""
    given = parse_dsn(dsn)
    # Not the caller's own for libpq and gunicorn: they would mix with what is set here.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PG") and name != "GUNICORN_CMD_ARGS"
    }
    path = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path),
        "DJANGO_SETTINGS_MODULE": "shop_django.settings",
        "SHOP_DB_NAME": given["dbname"],
        "SHOP_DB_USER": given.get("user", ""),
        "SHOP_DB_PASSWORD": given.get("password", ""),
        "SHOP_DB_HOST": given.get("host", ""),
        "SHOP_DB_PORT": given.get("port", ""),
        "DBPOOL_URL": url,
    }


def make_shop(server: PostgresServer) -> None:
    """Create the database, its tables and products, and a role for each app."""
    variables = environment(server.dsn(dbname=DATABASE), server.createdb(DATABASE))
    manage("migrate", variables)
    manage(f"seed --stock {STOCK}", variables)
    for app in APPS:
        server.sql(
            f"CREATE ROLE {app.role} {server.login()};"
            f" GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {app.role}",
            DATABASE,
        )


def environment_of(app: App, server: PostgresServer) -> dict[str, str]:
    """Return the variables by which `app` finds the shop's database, as its own role."""
    return environment(
        server.dsn(dbname=DATABASE, user=app.role), server.url(DATABASE, user=app.role)
    )


def manage(command: str, variables: Mapping[str, str]) -> str:
    """Run a command of manage.py and return what it printed; raise RuntimeError if it failed."""
    done = subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        cwd=SHOP,
        env=dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"manage.py {command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class AppServer:
    """One shop under gunicorn, on a free port of the loopback interface.

    Start it from the main thread: on Linux it ends with the thread that started it.
    """

    def __init__(self, app: App, variables: Mapping[str, str], folder: Path) -> None:
        self.app = app
        self.events = folder / f"{app.name}-events"
        self.events.mkdir()
        self._log = folder / f"{app.name}.log"
        # Bound here and handed over, so that nobody takes the port in between.
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            self.port: int = listener.getsockname()[1]
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable, "-m", "testproject.demo.launch", str(os.getpid()),
                        "--bind", f"fd://{listener.fileno()}", app.target,
                    ],
                    cwd=SHOP,
                    env={**variables, "SHOP_POOL_EVENTS": str(self.events)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,  # a Ctrl-C at the terminal is for the demo alone
                )  # fmt: skip

    def __enter__(self) -> AppServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def log_text(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_healthy(self, timeout: float = 30.0) -> None:
        """Return when /healthz/db answers 200; raise RuntimeError with the log if it does not."""
        until = time.monotonic() + timeout
        while self._process.poll() is None and time.monotonic() < until:
            try:
                if get(self.port, "/healthz/db", timeout=2.0)[0] == 200:
                    return
            except OSError:
                pass  # not listening yet, or not answering yet
            time.sleep(0.05)
        why = "ended" if self._process.poll() is not None else "is not healthy"
        raise RuntimeError(
            f"The {self.app.name} shop {why}. Its log ends:\n{self.log_text()[-3000:]}"
        )

    def stop(self, timeout: float = 20.0) -> int:
        """Let requests under way finish, end it, by force after `timeout`; return its status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # itself and its workers
        return self._process.wait()


def get(port: int, path: str, timeout: float) -> tuple[int, bytes]:
    """Return status and body of one GET over a connection of its own, as a load balancer's."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(repr(error)) from error
    finally:
        connection.close()
