"""Throw-away PostgreSQL servers for the demo and the tests. Linux and macOS.

    with PostgresServer() as server:          # a cluster and a port of its own; gone at the end
        connection = psycopg2.connect(server.dsn())
        server.restart("immediate")

`python -m testproject.postgres` starts one and times it; `--serve` keeps it until Ctrl-C.
"""

from __future__ import annotations

import argparse
import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

from testproject._postgres_guard import Guard, Process, processes
from testproject._postgres_programs import (
    PostgresUnavailable,
    account_to_run_as,
    dropped_to,
    find_programs,
)

__all__ = ["PostgresServer", "PostgresUnavailable"]

STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
SOCKET_PATH_LIMIT = 103  # bytes on macOS; 107 on Linux
# Below the ports that kernels lend to clients: a client that keeps trying while the server is down
# could otherwise be lent the very port, connect to itself, and keep the server from coming back.
PORTS = range(15_000, 32_000)
# Nothing here outlives the run, so nothing need reach the disk. The log shows every connect.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "log_line_prefix": "%m [%p] %a ",
    "log_connections": "on",
    "log_disconnections": "on",
}


class PostgresServer:
    """One cluster in a directory of its own, with a verb for every fault that it can suffer.

    Made, but not started: start() or `with` does that. Not for use by two threads at once.
    `conf` are settings as in postgresql.conf. With `password` the superuser "postgres" needs it
    over TCP (SCRAM-SHA-256); the unix socket trusts everybody. With `ssl` it speaks TLS with
    `certificate`, made out to localhost and 127.0.0.1. `programs` is "system" or "wheel" (see
    find_programs). Raises PostgresUnavailable where the machine cannot give what is asked for.
    """

    def __init__(
        self,
        *,
        conf: Mapping[str, object] | None = None,
        password: str | None = None,
        ssl: bool = False,
        programs: str | None = None,
    ) -> None:
        found = find_programs(programs)
        self._account = account_to_run_as()
        self.origin = found.origin
        self.port = _free_port()
        self.password = password
        self.ssl = ssl
        self.directory = Path(tempfile.mkdtemp(prefix="dbpool-pg-", dir=self._base_directory()))
        self.directory.chmod(0o755)
        self.data = self.directory / "data"
        self.log = self.directory / "server.log"
        self.certificate = self.directory / "server.crt"
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._guard = Guard(str(self.directory))
        self._owner = os.getpid()
        atexit.register(self.destroy)
        try:
            self._bindir = found.usable_by(self._account, self.directory)
            self._make_cluster(conf or {})
        except BaseException:
            self.destroy()
            raise

    def __enter__(self) -> PostgresServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.destroy()

    # Life

    def start(self, timeout: float = 30.0) -> PostgresServer:
        """Start, and return when connections are accepted; raise RuntimeError with its log."""
        with self.log.open("ab") as log:
            self._postmaster = subprocess.Popen(
                [self._bindir / "postgres", "-D", self.data, "-p", str(self.port)],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
                **dropped_to(self._account),
            )
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

    def ensure_running(self) -> None:
        """Thaw or start the server if a test left it frozen, stopped or dead."""
        self.thaw()
        if self._postmaster is None or self._postmaster.poll() is not None:
            self.start()

    def reload(self) -> None:
        """Make the server read its settings again; it does so a moment later."""
        self._running().send_signal(signal.SIGHUP)

    def destroy(self) -> None:
        """End the server in whatever state it is and remove everything. May be called twice."""
        atexit.unregister(self.destroy)
        if os.getpid() != self._owner:
            return  # a forked child that runs its parent's atexit functions
        self._guard.release()
        if self._postmaster:
            self._postmaster.wait()
            self._postmaster = None

    # Faults

    def kill9(self) -> None:
        """Kill the postmaster with SIGKILL; its children notice and end by themselves."""
        postmaster = self._running()
        postmaster.kill()
        postmaster.wait()
        self._postmaster = None
        self.thaw()  # children that were frozen with it could not notice

    def freeze(self, backends: bool = True) -> None:
        """Stop all execution: the kernel still accepts and acknowledges, nobody answers.

        With backends=False open sessions go on, and only new ones hang.
        """
        postmaster = self._running()
        # The postmaster first, so that it starts no child that would be missed.
        self._frozen = [postmaster.pid]
        os.kill(postmaster.pid, signal.SIGSTOP)
        for child in self.children() if backends else ():
            self._frozen.append(child.pid)
            os.kill(child.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo freeze()."""
        frozen, self._frozen = self._frozen, []
        for pid in frozen:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass

    # Looking at it

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
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def sql(self, statements: str, dbname: str = "postgres") -> str:
        """Run SQL by psql over the unix socket and return the bare rows; for setting things up."""
        return self._run(
            "psql", "-XqAt", "-v", "ON_ERROR_STOP=1",
            "-h", self.directory, "-p", self.port, "-U", "postgres", "-d", dbname,
            "-c", statements,
        ).strip()  # fmt: skip

    def createdb(self, dbname: str) -> str:
        """Create an empty database and return its URL."""
        quoted = dbname.replace('"', '""')
        self.sql(f'CREATE DATABASE "{quoted}"')
        return self.url(dbname)

    # Addresses

    def parameters(self, *, unix: bool = False, **overrides: object) -> dict[str, str]:
        """Return libpq's connection parameters; `unix` takes the socket instead of TCP."""
        given: dict[str, object] = {
            "host": self.directory if unix else "127.0.0.1",
            "port": self.port,
            "user": "postgres",
            "dbname": "postgres",
        }
        if self.password is not None and not unix:
            given["password"] = self.password
        if self.ssl and not unix:
            given["sslmode"] = "require"
        return {name: str(value) for name, value in {**given, **overrides}.items()}

    def dsn(self, *, unix: bool = False, **overrides: object) -> str:
        """Return a libpq string, such as `host=127.0.0.1 port=… user=postgres dbname=postgres`."""
        return " ".join(
            f"{name}={_libpq_quoted(value)}"
            for name, value in self.parameters(unix=unix, **overrides).items()
        )

    def url(self, dbname: str = "postgres", *, unix: bool = False, **overrides: object) -> str:
        """Return the same as a URL; what is neither of its parts becomes a query parameter."""
        rest = self.parameters(unix=unix, dbname=dbname, **overrides)
        host, port, user, name = (rest.pop(part) for part in ("host", "port", "user", "dbname"))
        secret = f":{quote(rest.pop('password'), safe='')}" if "password" in rest else ""
        query = f"?{urlencode(rest, quote_via=quote)}" if rest else ""
        return (
            f"postgresql://{quote(user, safe='')}{secret}@{quote(host, safe='')}:{port}"
            f"/{quote(name, safe='')}{query}"
        )

    # The making of the cluster

    def _base_directory(self) -> str:
        """Return where the directory can lie: short enough for a socket, open to the account."""
        for base in (tempfile.gettempdir(), "/tmp"):
            fits = (
                len(os.fsencode(f"{base}/dbpool-pg-12345678/.s.PGSQL.65535")) <= SOCKET_PATH_LIMIT
            )
            above = [Path(base).resolve(), *Path(base).resolve().parents]
            if fits and (self._account is None or all(d.stat().st_mode & 0o001 for d in above)):
                return base
        raise PostgresUnavailable("No temporary directory is short enough for a unix socket.")

    def _make_cluster(self, conf: Mapping[str, object]) -> None:
        self._give(self.directory)
        arguments: list[object] = ["--auth-local=trust", "--auth-host=trust"]
        if self.password is not None:
            secret = self.directory / "password"
            secret.touch(0o600)
            secret.write_text(self.password)
            self._give(secret)
            arguments = ["--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile", secret]
        self._run(
            "initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync",
            *arguments,
        )  # fmt: skip
        settings: dict[str, object] = {
            **SETTINGS,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            **(self._tls_settings() if self.ssl else {}),
            **conf,
        }
        # This file wins over postgresql.conf.
        lines = (f"{name} = {_conf_quoted(value)}\n" for name, value in settings.items())
        (self.data / "postgresql.auto.conf").write_text("".join(lines))

    def _tls_settings(self) -> dict[str, object]:
        try:
            self._run("postgres", "-D", self.data, "-c", "ssl=on", "-C", "ssl")
        except RuntimeError as error:
            raise PostgresUnavailable(
                f"The PostgreSQL found ({self.origin}) was built without TLS: install the "
                "system's postgresql package for this."
            ) from error
        if not shutil.which("openssl"):
            raise PostgresUnavailable("TLS needs the program openssl to make a certificate.")
        key = self.directory / "server.key"
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-keyout", key, "-out", self.certificate,
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        key.chmod(0o600)
        self._give(key)
        return {"ssl": "on", "ssl_cert_file": self.certificate, "ssl_key_file": key}

    def _give(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    # Processes

    def _run(self, program: str, *arguments: object) -> str:
        done = subprocess.run(
            [self._bindir / program, *map(str, arguments)],
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **dropped_to(self._account),
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        # Without the caller's PG* variables: PGOPTIONS or PGSERVICE would reach psql.
        kept = {name: v for name, v in os.environ.items() if not name.startswith("PG")}
        return {**kept, "HOME": str(self.directory), "LC_ALL": "C"}

    def _running(self) -> subprocess.Popen[bytes]:
        if self._postmaster is None:
            raise RuntimeError("This server is not running: call start() first.")
        return self._postmaster

    def _accepts_connections(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            # After a crash the file of the one before is still there: hence the pid.
            return int(lines[0]) == self.pid and lines[7].strip() == "ready"
        except (OSError, IndexError, ValueError):
            return False


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _libpq_quoted(value: str) -> str:
    if value and all(c.isalnum() or c in "/._-:" for c in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _conf_quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


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
