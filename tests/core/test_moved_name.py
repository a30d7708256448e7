"""A name that leads elsewhere from now on counts from the next connect on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testproject.postgres import PostgresServer
from tests.support.fault_proxy import FaultProxy
from tests.support.forking import DRIVER

ROOT = Path(__file__).parents[2]

# In a mount namespace of its own, where /etc/hosts is a file of the test's.
CALLER = """
import sys
from dbpool import ConnectionPool

def move(address):
    with open("/etc/hosts", "w") as hosts:
        hosts.write(f"{address} db.dbpool.test\\n")

def ask():
    with pool.connection() as conn:
        conn.cursor().execute("SELECT 1")

move("127.0.0.1")
with ConnectionPool(sys.argv[1], max_size=2, driver=sys.argv[2]) as pool:
    ask()
    print("moved", flush=True)
    move("127.0.0.2")
    ask()
    print("still the open one", flush=True)
    sys.stdin.readline()
    pool.drain()
    ask()
    print("the new one", flush=True)
    sys.stdin.readline()
"""


def lacks() -> str:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a file of its own in the place of /etc/hosts needs root"
    if not shutil.which("unshare"):
        return "the program unshare (util-linux) is not installed"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"],
        capture_output=True,
        check=False,
    )
    return "mount namespaces are not allowed here" if tried.returncode else ""


@pytest.mark.outage
def test_a_name_is_looked_up_at_each_connect(tmp_path: Path) -> None:
    if lacking := lacks():
        pytest.skip(lacking)
    hosts = tmp_path / "hosts"
    hosts.write_text("")
    with PostgresServer() as server:
        elsewhere = FaultProxy(("127.0.0.1", server.port), host="127.0.0.2")
        elsewhere.port = server.port
        with elsewhere:
            dsn = server.dsn(host="db.dbpool.test", dbname="postgres")
            inside = f'mount --bind {hosts} /etc/hosts && exec "$@"'
            command = [sys.executable, "-c", CALLER, dsn, DRIVER]
            caller = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", inside, "sh", *command],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            with caller:
                assert caller.stdout is not None
                assert caller.stdin is not None
                try:
                    assert caller.stdout.readline() == "moved\n"
                    assert caller.stdout.readline() == "still the open one\n"
                    assert elsewhere.accepted == 0
                    print(file=caller.stdin, flush=True)
                    assert caller.stdout.readline() == "the new one\n"
                    assert elsewhere.accepted == 1
                finally:
                    caller.kill()
