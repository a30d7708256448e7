"""PgBouncer in front of a test's own server; it ends with the server, however that ends.

    with PostgresServer() as server, PgBouncer(server, "transaction") as pooler:
        connection = psycopg2.connect(pooler.dsn())
        pooler.admin("PAUSE")

Needs the pgbouncer program.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from testproject._postgres_address import as_dsn
from testproject._postgres_programs import account_to_run_as, dropped_to
from testproject.postgres import PostgresServer, claim_port
from tests.support.waiting import wait_until

__all__ = ["PgBouncer", "find_pgbouncer"]

INI = """\
[databases]
* = host=127.0.0.1 port={server_port} user=postgres password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = md5
auth_file = {directory}/users.txt
admin_users = postgres
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = {clients}
server_login_retry = 0.1
"""


def find_pgbouncer() -> str | None:
    """Return the program's path; Debian keeps it in a directory that PATH may lack."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class PgBouncer:
    """One PgBouncer process.

    Arguments: `mode`, session or transaction; `size`, how many sessions it opens at the server;
    `clients`, how many clients it takes.
    """

    def __init__(
        self, server: PostgresServer, mode: str, size: int = 3, clients: int = 200
    ) -> None:
        program = find_pgbouncer()
        if program is None:
            raise LookupError("there is no pgbouncer on this machine")
        self._program = program
        self._account = account_to_run_as()
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self._claim = claim_port()
        # In the server's own directory: what names it is ended when the test run ends.
        self._directory = server.directory / f"pgbouncer-{self.port}"
        self._directory.mkdir()
        self._password = server.password
        ini = INI.format(
            server_port=server.port,
            password=server.password,
            port=self.port,
            directory=self._directory,
            mode=mode,
            size=size,
            clients=clients,
        )
        self._write("pgbouncer.ini", ini)
        self._write("users.txt", f'"postgres" "{server.password}"\n')

    def __enter__(self) -> PgBouncer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._claim.close()

    def _write(self, name: str, text: str) -> None:
        """Make a file that only the account can read, in a directory that is not the account's."""
        path = self._directory / name
        path.touch(0o600, exist_ok=False)
        path.write_text(text)
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def start(self) -> None:
        """Start it, and return when it answers."""
        with self._log.open("ab") as log:
            self._process = process = subprocess.Popen(
                [self._program, str(self._directory / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **dropped_to(self._account),
            )

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"PgBouncer ended at once:\n{self.log_text()}")
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                return False
            return True

        wait_until(answers, message=self.log_text)

    def stop(self) -> None:
        """End it at once, and all connections through it."""
        if self._process is not None:
            # Which of the other signals means "at once" differs by version, and a shell's & has
            # SIGQUIT ignored.
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def restart(self) -> None:
        """Stop and start it on the same port."""
        self.stop()
        self.start()

    def admin(self, command: str) -> list[tuple[Any, ...]]:
        """Run a command of its console, such as SHOW POOLS, PAUSE or RESUME."""
        with closing(psycopg2.connect(self.dsn(dbname="pgbouncer"))) as connection:
            connection.autocommit = True  # the console knows no BEGIN
            with connection.cursor() as cursor:
                cursor.execute(command)
                return cursor.fetchall() if cursor.description else []

    def dsn(self, **overrides: object) -> str:
        """Return a libpq string."""
        given = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "dbname": "postgres"}
        return as_dsn({**given, "password": self._password, **overrides})

    def log_text(self) -> str:
        """Return its log so far."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self._directory / "pgbouncer.log"
