"""Processes: forks, the test runner, and what a view costs at the server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._faults_stage import SERVER, Stage, Verdict, case

__all__: list[str] = []  # importing it enters the cases

ROOT = Path(__file__).parents[1]
PID = "SELECT pg_backend_pid()"


def _fork(function: Callable[[], Any]) -> tuple[int, int]:
    """Run the function in a child; return its pid, and where its answer can be read."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(15)  # two that read from one socket wait for each other's answers
        try:
            os.write(writing, json.dumps(function()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent is told
            os.write(writing, json.dumps(type(error).__name__).encode())
        finally:
            os._exit(0)
    os.close(writing)
    return pid, reading


def _answer(child: tuple[int, int]) -> Any:
    pid, reading = child
    with open(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else "hung"


def _sessions(stage: Stage) -> list[Any]:
    from django.db import close_old_connections

    seen = []
    for number in range(20):
        mine = f"{os.getpid()}-{number}"
        row = stage.query(f"SELECT pg_backend_pid() || ' {mine}'").split()
        seen.append(int(row[0]) if row[1] == mine else "another's answer")
        close_old_connections()
    return seen


def _forked(stage: Stage, before: int, child: Callable[[], Any]) -> Verdict:
    """Fork twice, at the same time; see who answers in the children, and in the parent after."""
    children = [_answer(one) for one in [_fork(child) for _ in range(2)]]
    for found in children:
        if isinstance(found, str):
            return Verdict(False, f"child: {found}")
        if "another's answer" in found:
            return Verdict(False, "another's answer")
    sessions = [set(found) for found in children]
    if before in sessions[0] | sessions[1] or sessions[0] & sessions[1]:
        return Verdict(False, "one session shared")
    try:
        after = stage.query(PID)
    except Exception as error:  # noqa: BLE001 - that is the finding
        return Verdict(False, f"parent: {type(error).__name__}")
    return Verdict(after == before, "own sessions" if after == before else "parent's was ended")


@case("fork after a query, connection given back; two children query")
def fork_after_query(stage: Stage) -> Verdict:
    from django.db import close_old_connections

    before = stage.query(PID)
    close_old_connections()
    return _forked(stage, before, lambda: _sessions(stage))


@case("fork with a connection in hand; two children close it and query")
def fork_in_hand(stage: Stage) -> Verdict:
    from django.db import connection

    before = stage.query(PID)

    def child() -> list[Any]:
        connection.close()
        return _sessions(stage)

    return _forked(stage, before, child)


TESTS = """
from django.db import connection
from django.test import TestCase, TransactionTestCase
from tests.web_django.shelf.models import Book

class Clean:
    def test_database(self):
        for _ in range(20):
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_database()")
                self.assertEqual(cursor.fetchone()[0], connection.settings_dict["NAME"])

    def test_empty(self):
        self.assertEqual(Book.objects.count(), 0)
        for number in range(20):
            Book.objects.create(title=str(number))
        self.assertEqual(Book.objects.count(), 20)

    def test_empty_again(self):
        self.test_empty()

class One(Clean, TestCase): pass
class Two(Clean, TransactionTestCase): pass
class Three(Clean, TestCase): pass
class Four(Clean, TransactionTestCase): pass
"""

# Queries before the tests do, as much of what runs at start-up does: with a pool by then.
RUNNER = """
import sys
if {driver!r} == "psycopg2":
    sys.modules["psycopg"] = None
from django.test.runner import DiscoverRunner
class Runner(DiscoverRunner):
    def setup_databases(self, **kwargs):
        found = super().setup_databases(**kwargs)
        from django.db import connection
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return found
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


@case("manage.py test --parallel 2")
def parallel_tests(stage: Stage) -> Verdict:
    from django.conf import settings
    from django.db import connection

    database = {**connection.settings_dict, "TEST": {"NAME": f"test_{stage.project.schema}"}}
    database["OPTIONS"] = {**database["OPTIONS"]}
    database["OPTIONS"].pop("options", None)
    given = {
        "DATABASES": {"default": database},
        "INSTALLED_APPS": ["tests.web_django.shelf"],
        "MIGRATION_MODULES": {"shelf": None},
        "SECRET_KEY": settings.SECRET_KEY,
        "DEFAULT_AUTO_FIELD": settings.DEFAULT_AUTO_FIELD,
        "USE_TZ": True,
        "TEST_RUNNER": "runner.Runner",
    }
    with TemporaryDirectory() as folder:
        place = Path(folder)
        lines = "".join(f"{name} = {value!r}\n" for name, value in given.items())
        (place / "parallel_settings.py").write_text(lines)
        (place / "test_parallel_shelf.py").write_text(TESTS)
        driver = connection.Database.__name__
        (place / "runner.py").write_text(RUNNER.format(driver=driver))
        environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "parallel_settings"}
        environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), folder))
        command = [sys.executable, "runner.py", "test", "--noinput", "--parallel", "2"]
        process = subprocess.Popen(
            [*command, "test_parallel_shelf"],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, text = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return Verdict(False, "hangs")
    if process.returncode == 0 and re.search(r"^Ran 12 tests.*^OK", text, re.DOTALL | re.M):
        return Verdict(True, "12 tests, OK")
    if "is being accessed by other users" in text:
        return Verdict(False, "impossible: database in use")
    counted = re.search(r"^FAILED \((.*)\)", text, re.M)
    last = text.strip().splitlines()[-1][:40] if text.strip() else "no output"
    return Verdict(False, counted.group(1) if counted else last)


def _statements(stage: Stage, view: Callable[[], Any], expected: int) -> Verdict:
    """Count what reaches the server for one request, when the connections are open."""
    from django.db import connections

    from testproject.postgres import PostgresServer
    from tests.web_django.project import database

    # Another zone than the connections': setting it would otherwise be superfluous.
    conf = {"log_statement": "all", "log_connections": "on", "timezone": "Asia/Tokyo"}
    conf["log_line_prefix"] = "%b|"
    wrapper = connections["default"]
    with PostgresServer(conf=conf) as server:
        place = database(server.dsn())
        wrapper.settings_dict.update({name: place[name] for name in SERVER})
        wrapper.settings_dict["OPTIONS"].pop("options", None)
        stage.serve("view", view)
        for _ in range(3):
            stage.site.get("view")
        begin = len(server.log_text())
        server.sql("SELECT 'begin'")
        statuses = [stage.site.get("view").status for _ in range(10)]
        # Simple queries are logged as statements, the others when they are executed; a ping may
        # be empty, and is in no log.
        text = server.log_text()[begin:]
        lines = [
            line
            for line in text.splitlines()
            if re.search(r"LOG:  (statement|execute|connection authorized)", line)
            and "'begin'" not in line
            and "application_name=psql" not in line
        ]
        wrapper.close()
        if hasattr(wrapper, "close_pool"):
            wrapper.close_pool()
    if set(statuses) != {200}:
        return Verdict(False, f"{sum(status != 200 for status in statuses)} of 10: 500")
    found = len(lines) // 10  # a pool may open one more connection meanwhile
    return Verdict(found == expected, str(found))


@case("statements at the server for a view with one SELECT: 1")
def statements(stage: Stage) -> Verdict:
    return _statements(stage, lambda: stage.query("SELECT 1"), 1)


@case("the same in an atomic block: 3")
def statements_atomic(stage: Stage) -> Verdict:
    from django.db import transaction

    def view() -> Any:
        with transaction.atomic():
            return stage.query("SELECT 1")

    return _statements(stage, view, 3)
