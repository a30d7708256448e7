"""The PostgreSQL of demo and tests: found, started, broken, and gone afterwards."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from testproject import _postgres_guard as guard
from testproject import _postgres_programs as programs
from testproject.postgres import TEMPLATE, PostgresServer, PostgresUnavailable, Template, claim_port
from tests.conftest import SCRAM_PASSWORD
from tests.support.servers import GivenPostgres, count_sessions
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[1]

# Starts a server and says where; then lives until it is killed. {then} happens meanwhile.
RUNNER = """
import os, signal, sys, time
from testproject.postgres import PostgresServer
server = PostgresServer().start()
server.sql("SELECT 1")
{then}
print(server.directory, flush=True)
time.sleep(60)
"""

STATES = "SELECT state FROM pg_stat_activity"


def asked(dsn: str, query: str = "SELECT 1") -> object:
    with closing(psycopg2.connect(dsn, connect_timeout=5)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
            assert row
            return row[0]


def running_on(directory: Path) -> list[guard.Process]:
    return [process for process in guard.processes() if str(directory / "data") in process.title]


# Which server


@pytest.mark.parametrize("origin", ["system", "wheel"])
def test_starts_from_either_kind_of_programs(origin: str) -> None:
    try:
        server = PostgresServer(programs=origin)
    except PostgresUnavailable as why:
        pytest.skip(f"no {origin} server here: {why}")
    with server:
        assert asked(server.dsn()) == 1
        assert (server.origin in programs.WHEELS) == (origin == "wheel")


def test_a_machine_without_any_server_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PG_BINDIR", "DBPOOL_PG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(programs, "SYSTEM_PLACES", ())
    monkeypatch.setattr(programs, "WHEELS", ())
    with pytest.raises(PostgresUnavailable, match="install the system's package"):
        PostgresServer()


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PG_BINDIR", str(tmp_path))
    monkeypatch.delenv("DBPOOL_PG", raising=False)
    with pytest.raises(PostgresUnavailable, match=r"PG_BINDIR=.* lacks one of initdb"):
        PostgresServer()
    with pytest.raises(ValueError, match="DBPOOL_PG is 'wheels'"):
        PostgresServer(programs="wheels")


def test_pg_config_leads_to_the_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bindir = tmp_path / "16" / "bin"
    bindir.mkdir(parents=True)
    for program in programs.NEEDED:
        (bindir / program).touch(0o755)
    asks = tmp_path / "path"
    asks.mkdir()
    (asks / "pg_config").write_text(f"#!/bin/sh\necho {bindir}\n")
    (asks / "pg_config").chmod(0o755)
    monkeypatch.setenv("PATH", str(asks))
    monkeypatch.delenv("PG_BINDIR", raising=False)
    assert programs.find_programs("system") == ("system", bindir)


def test_the_newest_of_several_versions_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version in ("9.6", "15", "17"):
        bindir = tmp_path / version / "bin"
        bindir.mkdir(parents=True)
        for program in programs.NEEDED[: 2 if version == "17" else 3]:  # 17 lacks psql
            (bindir / program).touch(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("PG_BINDIR", raising=False)
    monkeypatch.setattr(programs, "SYSTEM_PLACES", (f"{tmp_path}/*/bin",))
    assert programs.find_programs("system") == ("system", tmp_path / "15" / "bin")


# As whom


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_starts_as_an_ordinary_user() -> None:
    account = pwd.getpwnam("nobody")
    python = python_for(account)
    bindir = programs.find_programs().path
    with open_directory() as place:
        # The checkout may lie where only root can read.
        shutil.copytree(ROOT / "testproject", place / "testproject")
        subprocess.run(["chmod", "-R", "a+rX", place], check=True)
        done = subprocess.run(
            [python, "-m", "testproject.postgres"],
            cwd=place,
            env={"PATH": "/usr/bin:/bin", "PG_BINDIR": str(bindir)},
            capture_output=True,
            text=True,
            **programs.dropped_to(account),
        )
    assert done.returncode == 0, done.stderr
    assert "@127.0.0.1" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs programs as somebody else")
@pytest.mark.exhaustive
def test_a_wheel_in_a_private_folder_is_copied_for_the_servers_account(tmp_path: Path) -> None:
    try:
        found = programs.find_programs("wheel")
    except PostgresUnavailable as why:
        pytest.skip(str(why))
    package = found.path.parents[1]
    private = tmp_path / "private"
    shutil.copytree(found.path.parent, private / package.name / found.path.parent.name)
    libraries = package.name + ".libs"
    if (package.parent / libraries).is_dir():
        shutil.copytree(package.parent / libraries, private / libraries)
    private.chmod(0o700)
    account = programs.account_to_run_as()
    hidden = found._replace(path=private / package.name / found.path.parent.name / "bin")

    with open_directory() as scratch:
        usable = hidden.usable_by(account, scratch)
        assert usable.is_relative_to(scratch)
        for program in programs.NEEDED:
            done = subprocess.run(
                [usable / program, "--version"], cwd="/", **programs.dropped_to(account)
            )
            assert done.returncode == 0
    assert private.stat().st_mode & 0o777 == 0o700


# Gone afterwards


def test_servers_are_copied_from_a_template_and_differ_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Template() as template:
        monkeypatch.setenv(TEMPLATE, template)
        with PostgresServer() as one, PostgresServer() as other:
            one.sql("CREATE TABLE mine (i int)")
            assert one.password == other.password != ""
            assert other.sql("SELECT to_regclass('mine') IS NULL") == "t"
            with PostgresServer(password="given") as third:
                assert third.password == "given"
                assert asked(third.dsn()) == 1
            assert asked(other.dsn()) == 1
    assert not Path(template).exists()


@pytest.mark.parametrize("change", ["another version", "gone"])
@pytest.mark.exhaustive
def test_a_template_that_does_not_fit_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with Template() as template:
        made = Path(template, "made")
        _, password = made.read_text().split("\0")
        if change == "gone":
            made.unlink()
        else:
            made.write_text(f"postgres (PostgreSQL) 9.6\n\0{password}")
        monkeypatch.setenv(TEMPLATE, template)
        with PostgresServer() as server:
            assert server.password != password
            assert asked(server.dsn()) == 1


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("", id="running"),
        pytest.param("server.freeze()", id="frozen"),
        pytest.param("server.stop()", id="stopped"),
        pytest.param("server.kill9()", id="crashed"),
        pytest.param("server.restart('immediate')", id="restarted"),
        pytest.param("if not os.fork(): time.sleep(30)", id="with a forked child alive"),
    ],
)
def test_a_killed_runner_leaves_no_server_and_no_directory(then: str) -> None:
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(then=then)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert runner.stdout
    try:
        directory = Path(runner.stdout.readline().strip())
        assert directory.is_dir()
        family = {row.pid for row in running_on(directory)}
        family |= {row.pid for row in guard.processes() if row.parent in family}
        os.kill(runner.pid, signal.SIGKILL)
        wait_until(
            lambda: not directory.exists() and not running_on(directory),
            timeout=5.0,  # the guard resorts to SIGKILL after 8 s only
            message=lambda: f"{directory} and {running_on(directory)} gone",
        )
        wait_until(
            lambda: not {row.pid for row in guard.processes() if row.title} & family,
            message="every backend gone",
        )
    finally:
        with suppress(ProcessLookupError, PermissionError):  # the forked child, if there is one
            os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()
        runner.stdout.close()


@pytest.mark.exhaustive
def test_a_forked_child_that_exits_leaves_the_server_alone() -> None:
    with PostgresServer() as server:
        child = os.fork()
        if not child:
            server.destroy()  # what atexit does in a child that ends by sys.exit
            os._exit(0)
        os.waitpid(child, 0)
        assert asked(server.dsn()) == 1


@pytest.mark.exhaustive
def test_a_server_goes_even_while_clients_and_transactions_are_open() -> None:
    with PostgresServer() as server, closing(psycopg2.connect(server.dsn())) as connection:
        connection.cursor().execute("CREATE TABLE t (n int)")
        directory = server.directory
        server.destroy()
        assert not directory.exists()
        assert not running_on(directory)


def test_the_process_tables_from_proc_and_from_ps_agree() -> None:
    if not shutil.which("ps") or not os.path.isdir("/proc/self"):
        pytest.skip("this machine has one of the two")
    by_ps = {row.pid: row.parent for row in guard._processes_by_ps()}
    by_proc = {row.pid: row.parent for row in guard.processes()}
    assert by_ps[os.getpid()] == by_proc[os.getpid()] == os.getppid()


# Faults


@pytest.mark.outage
@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_restart_keeps_port_and_what_was_committed(
    breakable_postgres: PostgresServer, mode: str
) -> None:
    server = breakable_postgres
    server.sql(f"CREATE TABLE kept_{mode} AS SELECT 7 AS n")
    port, pid = server.port, server.pid
    server.restart(mode)
    assert server.pid != pid
    assert server.port == port
    assert asked(server.dsn(), f"SELECT n FROM kept_{mode}") == 7


@pytest.mark.outage
def test_kill9_refuses_new_clients_until_started_again(breakable_postgres: PostgresServer) -> None:
    server = breakable_postgres
    with closing(psycopg2.connect(server.dsn())) as connection:
        server.kill9()
        with pytest.raises(psycopg2.OperationalError):
            asked(server.dsn())
        with pytest.raises(psycopg2.OperationalError):
            connection.cursor().execute("SELECT 1")
    server.start()
    assert asked(server.dsn()) == 1


@pytest.mark.outage
@pytest.mark.exhaustive
def test_what_was_committed_survives_kill9_under_load(breakable_postgres: PostgresServer) -> None:
    server = breakable_postgres
    server.sql("CREATE TABLE counted (n int)")
    confirmed = 0

    def insert() -> None:
        nonlocal confirmed
        with closing(psycopg2.connect(server.dsn())) as connection:
            connection.autocommit = True
            with suppress(psycopg2.OperationalError), connection.cursor() as cursor:
                while True:
                    cursor.execute("INSERT INTO counted VALUES (1)")
                    confirmed += 1

    inserting = threading.Thread(target=insert)
    inserting.start()
    wait_until(lambda: confirmed > 100, message="100 rows inserted")
    server.kill9()
    inserting.join(10)
    server.start()
    # The last row may have been committed without the client hearing of it.
    assert asked(server.dsn(), "SELECT count(*) FROM counted") in (confirmed, confirmed + 1)


@pytest.mark.outage
@pytest.mark.exhaustive
def test_a_server_starts_again_though_a_session_was_too_busy_to_see_it_killed(
    breakable_postgres: PostgresServer,
) -> None:
    server = breakable_postgres
    with closing(psycopg2.connect(server.dsn())) as connection:
        busy = "DO $$ BEGIN FOR i IN 1..2000000000 LOOP END LOOP; END $$"
        asking = threading.Thread(target=lambda: swallow_errors(connection, busy))
        asking.start()
        wait_until(
            lambda: "active" in server.sql(f"{STATES} WHERE pid = {connection.info.backend_pid}"),
            message="the session busy",
        )
        server.kill9()
        asking.join(10)
    server.start()
    assert asked(server.dsn()) == 1


@pytest.mark.outage
def test_frozen_nobody_answers_and_thawed_everybody_does(
    breakable_postgres: PostgresServer,
) -> None:
    server = breakable_postgres
    with closing(psycopg2.connect(server.dsn())) as connection:
        answered = threading.Event()

        def ask() -> None:
            connection.cursor().execute("SELECT 1")
            answered.set()

        server.freeze()
        asking = threading.Thread(target=ask)
        asking.start()
        with pytest.raises(psycopg2.OperationalError, match="timeout"):
            psycopg2.connect(server.dsn(connect_timeout=2))
        assert not answered.is_set()
        server.thaw()
        asking.join(10)
        assert answered.is_set()
    assert asked(server.dsn()) == 1


@pytest.mark.outage
@pytest.mark.exhaustive
def test_with_the_postmaster_frozen_alone_open_sessions_go_on(
    breakable_postgres: PostgresServer,
) -> None:
    server = breakable_postgres
    with closing(psycopg2.connect(server.dsn())) as connection:
        server.freeze(backends=False)
        connection.cursor().execute("SELECT 1")
        with pytest.raises(psycopg2.OperationalError, match="timeout"):
            psycopg2.connect(server.dsn(connect_timeout=2))
        server.thaw()


@pytest.mark.outage
@pytest.mark.parametrize("state", ["stopped", "killed", "frozen", "died"])
def test_a_test_finds_the_server_running_whatever_the_one_before_did(
    breakable_postgres: PostgresServer, state: str
) -> None:
    server = breakable_postgres
    if state == "stopped":
        server.stop()
    elif state == "killed":
        server.kill9()
    elif state == "frozen":
        server.freeze()
    else:
        os.kill(server.pid, signal.SIGKILL)
    server.ensure_running()
    assert asked(server.dsn()) == 1


@pytest.mark.exhaustive
def test_reload_reads_changed_settings(own_postgres: PostgresServer) -> None:
    own_postgres.ensure_running()
    own_postgres.sql("ALTER SYSTEM SET work_mem = '5MB'")
    own_postgres.reload()
    wait_until(lambda: own_postgres.sql("SHOW work_mem") == "5MB", message="the setting read")


def test_the_children_are_told_by_their_titles(own_postgres: PostgresServer) -> None:
    own_postgres.ensure_running()
    with closing(psycopg2.connect(own_postgres.dsn())) as connection:
        pid = connection.info.backend_pid
        titles = {child.pid: child.title for child in own_postgres.children()}
        assert titles[pid].startswith("postgres: postgres postgres 127.0.0.1")


@pytest.mark.exhaustive
def test_a_server_that_cannot_start_shows_its_log_and_goes() -> None:
    server = PostgresServer(conf={"max_connections": "nonsense"})
    with pytest.raises(RuntimeError, match='"max_connections"'), server:
        pass
    assert not server.directory.exists()


# Addresses


@pytest.mark.parametrize("unix", [False, True])
def test_dsn_and_url_lead_to_the_same_place(scram_postgres: PostgresServer, unix: bool) -> None:
    if "it's" not in scram_postgres.sql("SELECT datname FROM pg_database"):
        scram_postgres.createdb('it\'s "one"')
    wanted: dict[str, Any] = {"dbname": 'it\'s "one"', "application_name": "a b/c?&%"}
    both = "SELECT current_database() || '|' || current_setting('application_name')"
    for address in (
        scram_postgres.dsn(unix=unix, **wanted),
        scram_postgres.url(unix=unix, **wanted),
        GivenPostgres(scram_postgres.dsn(unix=unix)).dsn(**wanted),
        GivenPostgres(scram_postgres.url(unix=unix)).url(**wanted),
    ):
        assert asked(address, both) == "|".join(wanted.values())


def test_scram_lets_in_the_password_and_nothing_else(scram_postgres: PostgresServer) -> None:
    stored = "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'"
    assert str(asked(scram_postgres.dsn(), stored)).startswith("SCRAM-SHA-256$")
    for wrong in ("", "wrong", SCRAM_PASSWORD + " "):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            asked(scram_postgres.dsn(password=wrong))


def test_nobody_gets_in_over_tcp_without_the_random_password(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has an account on the machine can reach the port, and a superuser runs programs."""
    if isinstance(postgres, GivenPostgres):
        pytest.skip("the server is somebody else's")
    for wrong in ({"password": ""}, {"password": "postgres"}, {"user": "nobody"}):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            asked(postgres.dsn(**wrong))
    monkeypatch.delenv(TEMPLATE, raising=False)  # the copies of one template share its password
    with PostgresServer() as another:
        assert another.password != postgres.password
        another.sql(f"CREATE ROLE visitor {another.login()}")
        assert asked(another.dsn(user="visitor"), "SELECT current_user") == "visitor"
        assert asked(another.dsn(unix=True, user="visitor"), "SELECT current_user") == "visitor"


@pytest.mark.exhaustive
def test_who_becomes_the_servers_account_cannot_lay_links_for_root() -> None:
    account = programs.account_to_run_as()
    if account is None:
        pytest.skip("this is not root")
    with PostgresServer() as server:
        own = {"data": account.pw_uid, "s": account.pw_uid}
        for path in sorted(server.directory.iterdir()):
            done = subprocess.run(
                ["mv", path, f"{path}.old"],
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                capture_output=True,
                text=True,
                **programs.dropped_to(account),
            )
            assert "Permission denied" in done.stderr, path
            if path.is_dir():
                assert path.stat().st_uid == own.get(path.name, 0), path
        assert (server.directory / "server.log").stat().st_uid == 0
        assert server.directory.stat().st_mode & 0o077 == 0o011


@pytest.mark.parametrize(
    ("name", "write"),
    [("server.log", PostgresServer.start), ("access.conf", lambda one: one.allow("192.0.2.0/24"))],
)
@pytest.mark.exhaustive
def test_a_link_where_a_file_of_the_server_should_be_is_not_followed(
    name: str, write: Callable[[PostgresServer], object], tmp_path: Path
) -> None:
    server = PostgresServer()
    try:
        other = tmp_path / "other"
        other.write_text("of somebody else")
        (server.directory / name).unlink(missing_ok=True)
        (server.directory / name).symlink_to(other)
        with pytest.raises(OSError, match="symbolic link"):
            write(server)
        assert other.read_text() == "of somebody else"
    finally:
        server.destroy()


def test_tls_with_a_certificate_that_verifies() -> None:
    try:
        server = PostgresServer(ssl=True)
    except PostgresUnavailable as why:
        pytest.skip(str(why))
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    with server:
        verified: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": server.certificate}
        for address in (server.dsn(), server.url(), server.dsn(**verified)):
            assert asked(address, encrypted) is True


@pytest.mark.exhaustive
def test_a_server_that_is_stopped_keeps_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the test runs beside this one, too: several go at once, each with dozens of servers."""
    first, claim = claim_port()
    second, other = claim_port()
    other.close()
    chosen = iter([first, second])
    with claim:
        monkeypatch.setattr(random, "choice", lambda _: next(chosen))
        port, kept = claim_port()
        kept.close()
    assert port == second != first


def test_sessions_are_counted_by_application_name(own_postgres: PostgresServer) -> None:
    own_postgres.ensure_running()
    assert count_sessions(own_postgres, "counted:%") == 0
    with closing(psycopg2.connect(own_postgres.dsn(application_name="counted:1"))):
        with closing(psycopg2.connect(own_postgres.dsn(application_name="counted:2"))):
            assert count_sessions(own_postgres, "counted:%") == 2
            assert count_sessions(own_postgres, "counted:1") == 1


@pytest.mark.exhaustive
def test_the_environments_own_settings_do_not_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, own_postgres: PostgresServer
) -> None:
    own_postgres.ensure_running()
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=nonsense")
    monkeypatch.setenv("PGDATABASE", "nowhere")
    assert own_postgres.sql("SELECT 1") == "1"


def swallow_errors(connection: psycopg2.extensions.connection, query: str) -> None:
    with suppress(psycopg2.OperationalError), connection.cursor() as cursor:
        cursor.execute(query)


def python_for(account: pwd.struct_passwd) -> str:
    """Return a Python that `account` can run, or skip the test."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        check = "import sys; sys.exit(sys.version_info < (3, 10))"
        try:
            done = subprocess.run([candidate, "-c", check], cwd="/", **programs.dropped_to(account))
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip(f"there is no Python here that {account.pw_name} can run")


@contextmanager
def open_directory() -> Iterator[Path]:
    """Give a temporary directory that every account can enter (pytest's tmp_path is private)."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="dbpool-test-") as place:
        os.chmod(place, 0o755)
        yield Path(place)
