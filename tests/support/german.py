"""A PostgreSQL that speaks German: what it says to a client is in no list of English texts.

    with german_postgres(password="...") as server:
        ...

Needs no rights: the locale is compiled into a directory of the test's own, which the server finds
by LOCPATH. The texts come with the server's package (Debian's has them, a pip package has not).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testproject.postgres import PostgresServer, PostgresUnavailable

__all__ = ["LOCALE", "german_postgres"]

LOCALE = "de_DE.UTF-8"


@contextmanager
def german_postgres(
    *, password: str | None = None, conf: dict[str, object] | None = None
) -> Iterator[PostgresServer]:
    """Start a server whose messages are German; the same arguments as PostgresServer's.

    Raises PostgresUnavailable where this machine has no such locale, or no such texts.
    """
    with tempfile.TemporaryDirectory(prefix="dbpool-locale-") as directory:
        _compile_locale(Path(directory))
        settings: dict[str, Any] = {**(conf or {}), "lc_messages": LOCALE}
        with PostgresServer(
            password=password, conf=settings, environ={"LOCPATH": directory}
        ) as server:
            try:
                server.sql("SELECT * FROM is_there_no_such_table")
            except RuntimeError as error:
                if "existiert nicht" not in str(error):
                    raise PostgresUnavailable(
                        f"The PostgreSQL that was found ({server.origin}) has no German texts: "
                        "install the system's package."
                    ) from None
            yield server


def _compile_locale(directory: Path) -> None:
    program = shutil.which("localedef")
    if program is None:
        raise PostgresUnavailable("German texts need the program localedef, for their locale.")
    done = subprocess.run(
        [program, "--no-archive", "-i", "de_DE", "-f", "UTF-8", str(directory / LOCALE)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PostgresUnavailable(f"localedef made no {LOCALE}: {done.stderr.strip()}")
    # The server may run as somebody else.
    for path in (directory, *directory.rglob("*")):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
