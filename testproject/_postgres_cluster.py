"""A PostgreSQL cluster in a temporary directory: made here, started by testproject.postgres."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from testproject._postgres_guard import Guard
from testproject._postgres_programs import (
    PostgresUnavailable,
    account_to_run_as,
    dropped_to,
    find_programs,
)

__all__ = ["TEMPLATE", "Cluster", "Template"]

# A variable: the directory of a Template, which servers with a random password are copied from.
TEMPLATE = "DBPOOL_PG_TEMPLATE"

SOCKET_NAME = ".s.PGSQL.65535"
SOCKET_PATH_LIMIT = 103  # bytes on macOS; 107 on Linux
# Nothing here outlives the run, so nothing need reach the disk; but what was committed must outlive
# a kill of the server, hence synchronous_commit stays on. The log shows every connect.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
    "log_line_prefix": "%m [%p] %a ",
    "log_connections": "on",
    "log_disconnections": "on",
}


ACCESS = """\
local all all trust
local replication all trust
host all all 127.0.0.1/32 {method}
host replication all 127.0.0.1/32 {method}
"""
# No link is followed, whoever has laid it.
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW


class Cluster:
    """The directory, the programs to use on it, and the account to run them as.

    The superuser is "postgres". `password` is asked for over TCP, never on the unix socket, which
    only the server's account (and root) can reach. `by_chance` says that it is a random one, which
    needs no slow hash. `ssl` makes a certificate. `programs`: see find_programs. `environ` are
    variables that the programs have besides this process's own. Raises PostgresUnavailable where
    the machine cannot give what is asked for.

    Where root makes it, the directory is root's, and so is every file in it that root writes: the
    account has two directories of its own in there, for the data and for the socket. In those
    somebody who got hold of the account could lay links for root to follow.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, object],
        password: str,
        by_chance: bool,
        ssl: bool,
        programs: str | None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.password = password
        self._environ = environ or {}
        found = find_programs(programs)
        self.origin = found.origin
        self._account = account_to_run_as()
        base = _base_directory(open_to_all=self._account is not None)
        self.directory = Path(tempfile.mkdtemp(prefix="dbpool-pg-", dir=base))
        self._guard = Guard(str(self.directory))
        try:
            if self._account:
                self.directory.chmod(0o711)  # the account passes through
            for path in (self.data, self.sockets):
                self._make_directory(path)
            self._programs = found.usable_by(self._account, self.directory)
            self._method = self._initdb(by_chance)
            self._write(self._access, ACCESS.format(method=self._method))
            self._write_settings({**SETTINGS, **(self._tls() if ssl else {}), **settings})
        except BaseException:
            self.remove()
            raise

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.directory / "data"

    @property
    def sockets(self) -> Path:
        """The directory of the unix socket."""
        return self.directory / "s"

    @property
    def log(self) -> Path:
        """The file that the server logs to; absent before the first start."""
        return self.directory / "server.log"

    @property
    def certificate(self) -> Path:
        """The self-signed certificate for localhost and 127.0.0.1, where TLS was asked for."""
        return self.directory / "server.crt"

    def remove(self) -> None:
        """End every program that runs on the cluster and remove it. May be called twice."""
        self._guard.release()

    def run(self, program: str, *arguments: object) -> str:
        """Run one of PostgreSQL's programs to its end and return what it printed.

        Raises RuntimeError with the output if it fails.
        """
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [self._programs / program, *map(str, arguments)],
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            **dropped_to(self._account),
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def spawn_server(self, port: int) -> subprocess.Popen[bytes]:
        """Start the postmaster and return at once."""
        settings = ["-c", f"config_file={self._settings}"]
        with open(os.open(self.log, APPEND, 0o600), "ab") as log:
            return subprocess.Popen(
                # The guard finds the server by these arguments.
                [self._programs / "postgres", "-D", self.data, "-p", str(port), *settings],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **dropped_to(self._account),
            )

    def allow(self, addresses: str) -> None:
        """Let clients of other addresses in, too (as in pg_hba.conf), from the next start on."""
        with open(os.open(self._access, APPEND, 0o600), "a") as access:
            access.write(f"host all all {addresses} {self._method}\n")

    def follow(self, primary: Cluster, port: int) -> None:
        """Replace the data by a copy of a running server's, to be started as its standby."""
        shutil.rmtree(self.data)
        self._make_directory(self.data)
        where = ["-h", primary.sockets, "-p", port, "-U", "postgres"]
        self.run("pg_basebackup", *where, "-D", self.data, "-X", "stream", "-c", "fast")
        self._write(self.data / "standby.signal", "")

    @property
    def _settings(self) -> Path:
        return self.directory / "server.conf"

    @property
    def _access(self) -> Path:
        return self.directory / "access.conf"

    def _initdb(self, by_chance: bool) -> str:
        """Make the cluster; return how clients prove over TCP that they know the password."""
        method, arguments = "scram-sha-256", ["-U", "postgres", "-E", "UTF8", "--no-locale"]
        if by_chance:  # 4096 rounds of a hash cost a client 4 ms with each connect
            said = self.run("postgres", "--version")
            version = re.search(r"\d+", said)
            if version and int(version[0]) >= 16:
                arguments += ["--set", "scram_iterations=1"]
            else:
                method = "md5"
            if not self._environ and self._copy(said):
                return method
        secret = self._write(self.directory / "password", self.password)
        arguments += ["--no-sync", f"--auth-host={method}", f"--pwfile={secret}"]
        arguments += ["--wal-segsize=1"]  # megabytes, of which a file is written at once
        self.run("initdb", "-D", self.data, *arguments, "--auth-local=trust")
        secret.unlink()
        return method

    def _copy(self, version: str) -> bool:
        """Copy the template, if there is one of this version: half the time of initdb."""
        if not (template := os.environ.get(TEMPLATE)):
            return False
        try:
            made_with, password = Path(template, "made").read_text().split("\0")
        except OSError:  # it is gone, or another account's
            return False
        if made_with != version:
            return False
        copy = ["cp", "-R", "-p", f"{template}/data/.", str(self.data)]
        if subprocess.run(copy, capture_output=True, **dropped_to(self._account)).returncode:
            raise RuntimeError(f"The template {template} could not be copied.")
        self.password = password
        return True

    def _write_settings(self, settings: Mapping[str, object]) -> None:
        ours = {"unix_socket_directories": self.sockets, "hba_file": self._access, **settings}
        lines = [f"{name} = {_quoted(value)}\n" for name, value in ours.items()]
        initdbs = f"include {_quoted(self.data / 'postgresql.conf')}\n"
        self._write(self._settings, "".join([initdbs, *lines]))

    def _tls(self) -> dict[str, object]:
        """Make a key and a certificate; return the settings that use them."""
        try:
            self.run("postgres", "-D", self.data, "-c", "ssl=on", "-C", "ssl")
        except RuntimeError as error:
            raise PostgresUnavailable(
                f"The PostgreSQL that was found ({self.origin}) is built without TLS: for this, "
                "install the system's postgresql package."
            ) from error
        if not shutil.which("openssl"):
            raise PostgresUnavailable("TLS needs the program openssl, to make a certificate.")
        key = self._write(self.directory / "server.key", "")
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        files = ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run([*request, *names, *files], check=True, capture_output=True)
        self.certificate.chmod(0o644)
        return {"ssl": "on", "ssl_cert_file": self.certificate, "ssl_key_file": key}

    def _write(self, path: Path, text: str) -> Path:
        """Make a file that only the account can read; return its path."""
        with open(os.open(path, NEW, 0o600), "w", encoding="utf-8") as file:
            if self._account:
                os.fchown(file.fileno(), self._account.pw_uid, self._account.pw_gid)
            file.write(text)
        return path

    def _make_directory(self, path: Path) -> None:
        """Make a directory of the account's own."""
        path.mkdir(0o700)
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    def _environment(self) -> dict[str, str]:
        # Without the caller's PG* variables: PGOPTIONS or PGSERVICE would reach psql.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**kept, "HOME": str(self.directory), "LC_ALL": "C", **self._environ}


class Template:
    """A cluster that is never started; `with Template() as path:` says where, for TEMPLATE."""

    def __init__(self) -> None:
        self._cluster = Cluster(
            settings={},
            password=secrets.token_hex(16),
            by_chance=True,
            ssl=False,
            programs=None,
        )

    def __enter__(self) -> str:
        cluster = self._cluster
        with open(os.open(cluster.directory / "made", NEW, 0o600), "w") as made:
            made.write(f"{cluster.run('postgres', '--version')}\0{cluster.password}")
        return str(cluster.directory)

    def __exit__(self, *exc: object) -> None:
        self._cluster.remove()


def _base_directory(*, open_to_all: bool) -> str:
    """Return where the cluster can lie: short enough for a unix socket, open to the account."""
    for base in (tempfile.gettempdir(), "/tmp"):
        real = Path(base).resolve()
        path = f"{base}/dbpool-pg-12345678/s/{SOCKET_NAME}"
        too_long = len(os.fsencode(path)) > SOCKET_PATH_LIMIT
        open_here = all(place.stat().st_mode & 0o001 for place in (real, *real.parents))
        if not too_long and (open_here or not open_to_all):
            return base
    raise PostgresUnavailable("No temporary directory is short and open enough for a server.")


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"
