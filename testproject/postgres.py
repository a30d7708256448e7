"""Throw-away PostgreSQL servers for the demo and the tests. Linux and macOS.

    with PostgresServer() as server:          # a cluster and a port of its own; gone at the end
        connection = psycopg2.connect(server.dsn())
        server.restart("immediate")

It listens on the loopback interface only, and asks for a password: a random one, if none is given.
`python -m testproject.postgres` starts one and times it; `--serve` keeps it until Ctrl-C.
"""

from __future__ import annotations

import argparse
import atexit
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from testproject._postgres_address import as_dsn, as_url, may_log_in
from testproject._postgres_cluster import TEMPLATE, Cluster, Template
from testproject._postgres_guard import Process, processes, send
from testproject._postgres_port import claim_port
from testproject._postgres_programs import PostgresUnavailable, find_programs

__all__ = ["TEMPLATE", "PostgresServer", "PostgresUnavailable", "Template", "claim_port"]

STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresServer:
    """One cluster and the server on it, with a verb for every fault that it can suffer.

    Made, but not started: start() or `with` does that. Not for use by two threads at once.
    `conf` are settings as in postgresql.conf. Over TCP the superuser "postgres" needs `password`,
    which is in what dsn(), url() and parameters() return; the unix socket trusts. One that is given
    is asked for by SCRAM-SHA-256. With `ssl` it speaks TLS with `certificate`, made out to
    localhost and 127.0.0.1. `programs` is "system" or "wheel" (see find_programs). `environ` are
    variables for the server, such as LOCPATH. Raises PostgresUnavailable where the machine cannot
    give what is asked for.
    """

    def __init__(
        self,
        *,
        conf: Mapping[str, object] | None = None,
        password: str | None = None,
        ssl: bool = False,
        programs: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.ssl = ssl
        self._cluster = Cluster(
            settings=conf or {},
            password=secrets.token_hex(16) if password is None else password,
            by_chance=password is None,
            ssl=ssl,
            programs=programs,
            environ=environ,
        )
        self.password = self._cluster.password
        self.port, self._claim = claim_port()
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._owner = os.getpid()
        atexit.register(self.destroy)

    def __enter__(self) -> PostgresServer:
        try:
            return self.start()
        except BaseException:
            self.destroy()
            raise

    def __exit__(self, *exc: object) -> None:
        self.destroy()

    # Life

    def start(self, timeout: float = 30.0) -> PostgresServer:
        """Start, and return when connections are accepted; raise RuntimeError with its log."""
        if self._postmaster is not None and self._postmaster.poll() is None:
            raise RuntimeError("This server is running already.")
        self._postmaster = self._cluster.spawn_server(self.port)
        until = time.monotonic() + timeout
        while not self._accepts_connections():
            ended = self._postmaster.poll() is not None
            if ended or time.monotonic() > until:
                why = "ended at once" if ended else f"was not ready after {timeout:g} s"
                raise RuntimeError(f"PostgreSQL {why}. Its log ends:\n{self.log_text()[-3000:]}")
            time.sleep(0.002)
        return self

    def stop(self, mode: str = "fast", timeout: float = 30.0) -> None:
        """Stop: "smart" waits for clients, "fast" ends them, "immediate" is a crash."""
        self.thaw()
        postmaster = self._running()
        postmaster.send_signal(STOP_SIGNALS[mode])
        postmaster.wait(timeout)
        self._postmaster = None

    def restart(self, mode: str = "fast") -> None:
        """Stop and start again on the same port and data."""
        self.stop(mode)
        self.start()

    def ensure_running(self, timeout: float = 30.0) -> None:
        """Return when it answers, having thawed or started it if it was frozen, stopped or dead."""
        self.thaw()
        until = time.monotonic() + timeout
        while True:
            if self._postmaster is None or self._postmaster.poll() is not None:
                self.start(timeout)
            try:
                self.sql("SELECT 1")
                return
            except RuntimeError:  # recovering: after the death of a backend, say
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)

    def reload(self) -> None:
        """Make the server read its settings again; it does so a moment later."""
        self._running().send_signal(signal.SIGHUP)

    def destroy(self) -> None:
        """End the server in whatever state it is and remove everything. May be called twice."""
        atexit.unregister(self.destroy)
        if os.getpid() != self._owner:
            return  # a forked child that runs its parent's atexit functions
        self._cluster.remove()
        if self._postmaster:
            self._postmaster.wait()
            self._postmaster = None
        self._claim.close()

    # Faults

    def kill9(self) -> None:
        """Kill the postmaster with SIGKILL; return when its children have noticed and ended.

        One that is too busy to notice within a second is killed too: a start would fail beside it.
        """
        postmaster = self._running()
        pids = {child.pid for child in self.children()}
        postmaster.kill()
        postmaster.wait()
        self._postmaster = None
        self.thaw()  # children that were frozen with it could not notice
        until = time.monotonic() + 1.0
        while left := [p for p in processes() if p.pid in pids and p.title.startswith("postgres:")]:
            if time.monotonic() > until:
                send((process.pid for process in left), signal.SIGKILL)
            time.sleep(0.002)

    def freeze(self, backends: bool = True) -> None:
        """Stop all execution: the kernel still accepts and acknowledges, nobody answers.

        With backends=False open sessions go on, and only new ones hang.
        """
        postmaster = self._running()
        # The postmaster first, so that it starts no child that would be missed.
        send([postmaster.pid], signal.SIGSTOP)
        children = [child.pid for child in self.children()] if backends else []
        send(children, signal.SIGSTOP)
        self._frozen = [postmaster.pid, *children]

    def thaw(self) -> None:
        """Undo freeze()."""
        send(self._frozen, signal.SIGCONT)
        self._frozen = []

    # Looking at it

    @property
    def origin(self) -> str:
        """Where its programs come from: "PG_BINDIR", "system" or a pip package's import name."""
        return self._cluster.origin

    @property
    def directory(self) -> Path:
        """Everything of the server lies in here."""
        return self._cluster.directory

    @property
    def certificate(self) -> Path:
        """The self-signed certificate (for sslrootcert=) of a server made with ssl=True."""
        return self._cluster.certificate

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._running().pid

    def children(self) -> list[Process]:
        """Return the server's processes below the postmaster; the titles tell which is which."""
        postmaster = self._running()
        return [row for row in processes() if row.parent == postmaster.pid]

    def log_text(self) -> str:
        """Return the server's log so far."""
        log = self._cluster.log
        return log.read_text(errors="replace") if log.exists() else ""

    def sql(self, statements: str, dbname: str = "postgres") -> str:
        """Run SQL by psql over the unix socket and return the bare rows; for setting things up."""
        where = ["-h", self._cluster.sockets, "-p", self.port, "-U", "postgres", "-d", dbname]
        quiet = ["-XqAt", "-v", "ON_ERROR_STOP=1"]
        return self._cluster.run("psql", *quiet, *where, "-c", statements).strip()

    def createdb(self, dbname: str) -> str:
        """Create an empty database and return its URL."""
        quoted = dbname.replace('"', '""')
        self.sql(f'CREATE DATABASE "{quoted}"')
        return self.url(dbname)

    def login(self) -> str:
        """Return the options of CREATE ROLE by which dsn(user=…) lets a role in."""
        return may_log_in(self.password)

    def allow(self, addresses: str) -> None:
        """Let clients of other addresses in, too: "192.0.2.0/24". Before start()."""
        self._cluster.allow(addresses)

    def follow(self, primary: PostgresServer) -> None:
        """Become a standby of `primary`, which runs: with its roles, and so with its password."""
        self.password = primary.password
        self._cluster.follow(primary._cluster, primary.port)

    # Addresses

    def parameters(self, *, unix: bool = False, **overrides: object) -> dict[str, object]:
        """Return libpq's connection parameters; `unix` takes the socket instead of TCP."""
        given: dict[str, object] = {
            "host": self._cluster.sockets if unix else "127.0.0.1",
            "port": self.port,
            "user": "postgres",
            "dbname": "postgres",
        }
        if not unix:
            given["password"] = self.password
        if self.ssl and not unix:
            given["sslmode"] = "require"
        return {**given, **overrides}

    def dsn(self, *, unix: bool = False, **overrides: object) -> str:
        """Return a libpq string, such as `host=127.0.0.1 port=… user=postgres password=…`."""
        return as_dsn(self.parameters(unix=unix, **overrides))

    def url(self, dbname: str = "postgres", *, unix: bool = False, **overrides: object) -> str:
        """Return the same as a URL."""
        return as_url(self.parameters(unix=unix, dbname=dbname, **overrides))

    # The postmaster

    def _running(self) -> subprocess.Popen[bytes]:
        if self._postmaster is None:
            raise RuntimeError("This server is not running: call start() first.")
        return self._postmaster

    def _accepts_connections(self) -> bool:
        try:
            lines = (self._cluster.data / "postmaster.pid").read_text().splitlines()
            # After a crash the file of the one before is still there: hence the pid.
            return int(lines[0]) == self.pid and lines[7].strip() == "ready"
        except (OSError, IndexError, ValueError):
            return False


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testproject.postgres", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--serve", action="store_true", help="run until Ctrl-C")
    parser.add_argument("--ssl", action="store_true", help="with TLS")
    parser.add_argument("--password", help="ask for this password over TCP (SCRAM)")
    parser.add_argument("--find", action="store_true", help="only say where the programs are")
    options = parser.parse_args()
    try:
        if options.find:
            print(*find_programs())
            return
        begin = time.perf_counter()
        with PostgresServer(ssl=options.ssl, password=options.password) as server:
            seconds = time.perf_counter() - begin
            print(f"{server.sql('SHOW server_version')} ({server.origin}) in {seconds:.2f} s")
            print(server.url(), flush=True)
            if options.serve:
                ends = {signal.SIGINT, signal.SIGTERM}
                signal.pthread_sigmask(signal.SIG_BLOCK, ends)
                signal.sigwait(ends)
    except PostgresUnavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
