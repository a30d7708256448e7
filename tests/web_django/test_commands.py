"""Short processes: management commands, the test runner, scripts that leave something open."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest

from testproject.postgres import PostgresServer, claim_port
from tests.support.servers import Postgres, count_sessions
from tests.support.waiting import wait_until
from tests.web_django.project import database

ROOT = Path(__file__).parents[2]

SETTINGS = """
DATABASES = {{"default": {database!r}}}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "tests.web_django.shelf"]
MIGRATION_MODULES = {{"shelf": None}}
ROOT_URLCONF = "tests.web_django.site"
SECRET_KEY = "only for tests"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["*"]
STATIC_URL, MEDIA_URL = "static/", "media/"
USE_TZ = True
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(postgres: Postgres, tmp_path: Path) -> Run:
    """Run Python in a project that lies in a folder of its own."""
    name = f"dbpool-commands-{os.getpid()}"
    settings = database(postgres.dsn(application_name=name), {"max_size": 3})
    settings["TEST"] = {"NAME": f"test_dbpool_{os.getpid()}"}
    (tmp_path / "shop_settings.py").write_text(SETTINGS.format(database=settings))

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path))),
            "DJANGO_SETTINGS_MODULE": "shop_settings",
            "PYTHONWARNINGS": "error",
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == code, done.stdout + done.stderr
        wait_until(lambda: count_sessions(postgres, name) == 0, message="no session left")
        return done

    return run


MANAGE = ("-m", "django")


def test_a_command_ends_with_nothing_left_open(run: Run) -> None:
    done = run(*MANAGE, "inspectdb", "no_such_table")
    assert "models.Model" not in done.stderr


def test_checks_with_a_database_pass(run: Run) -> None:
    done = run(*MANAGE, "check", "--database", "default", "--fail-level", "WARNING")
    assert "System check identified" in done.stdout + done.stderr


def test_a_script_that_holds_connections_in_threads_still_ends(run: Run) -> None:
    script = """
        import threading, django
        django.setup()
        from django.db import connection
        held = threading.Barrier(3)
        def hold():
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                held.wait()
                threading.Event().wait()
        for _ in range(2):
            threading.Thread(target=hold, daemon=True).start()
        connection.ensure_connection()
        held.wait()
        print("at the end")
    """
    assert run("-c", textwrap.dedent(script)).stdout == "at the end\n"


@pytest.mark.parametrize("held", [False, True])
def test_a_process_says_goodbye_to_the_server(held: bool, tmp_path: Path) -> None:
    with PostgresServer(conf={"log_min_messages": "debug1"}) as server:
        settings = SETTINGS.format(database=database(server.dsn(application_name="leaves")))
        (tmp_path / "leaving_settings.py").write_text(settings)
        script = f"""
            import django
            django.setup()
            from django.db import connection
            connection.ensure_connection()
            if not {held}:
                connection.close()
        """
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path))),
            "DJANGO_SETTINGS_MODULE": "leaving_settings",
        }
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environ, check=True)
        wait_until(
            lambda: (
                not server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'leaves'")
            )
        )
        assert "unexpected EOF" not in server.log_text()


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
def test_killed_greenlets_cost_no_slot(run: Run) -> None:
    script = """
        import gevent.monkey
        gevent.monkey.patch_all()
        import gc, gevent, django
        from tests.support import inside
        django.setup()
        from django.db import connection
        def query():
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                holding.append(1)
                gevent.sleep(1000)
        for _ in range(6):  # of a pool of 3
            holding = []
            greenlet = gevent.spawn(query)
            while not holding and not greenlet.ready():
                gevent.sleep(0.001)
            assert holding, greenlet.exception
            greenlet.kill()
            del greenlet
        gc.collect()
        def count():
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.close()
        gevent.joinall([gevent.spawn(count) for _ in range(6)], raise_error=True, timeout=30)
        pool = connection.pool
        for _ in range(1000):  # a connect may be under way yet, for one who has been served since
            stats = pool.get_stats()
            if stats["pool_size"] == stats["pool_available"]:
                break
            gevent.sleep(0.01)
        print(stats["pool_size"] <= 3, stats["pool_size"] - stats["pool_available"])
        inside.audit(pool)
    """
    assert run("-W", "ignore", "-c", textwrap.dedent(script)).stdout == "True 0\n"


def test_runserver_serves_its_threads_from_the_pool(
    run: Run, tmp_path: Path, postgres: Postgres
) -> None:
    (tmp_path / "shop_urls.py").write_text(SHOP_URLS)
    with (tmp_path / "shop_settings.py").open("a") as settings:
        settings.write('ROOT_URLCONF = "shop_urls"\nDEBUG = True\n')
    port, claim = claim_port()
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path))),
        "DJANGO_SETTINGS_MODULE": "shop_settings",
    }
    log = tmp_path / "runserver.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-u", *MANAGE, "runserver", "--noreload", f"127.0.0.1:{port}"],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "Quit the server" in log.read_text(), 30, log.read_text)

        def ask(number: int) -> str:
            with urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                return str(answer.read().decode())

        # Each connection of a client's has a thread of its own.
        with ThreadPoolExecutor(8) as clients:
            sessions = set(clients.map(ask, range(60)))
        assert 1 <= len(sessions) <= 3
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        claim.close()
    assert "Traceback" not in log.read_text(), log.read_text()
    run("-c", "print()")  # and no session is left


SHOP_URLS = """
from django.db import connection
from django.http import HttpResponse
from django.urls import path

def session(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), pg_sleep(0.01)")
        return HttpResponse(str(cursor.fetchone()[0]))

urlpatterns = [path("", session)]
"""

TESTS = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen
from django.db import connection, connections
from django.http import HttpResponse
from django.test import LiveServerTestCase, TestCase, TransactionTestCase, override_settings
from django.urls import path
from tests.web_django.shelf.models import Book

def count(request):
    return HttpResponse(str(Book.objects.count()))

urlpatterns = [path("count", count)]

class Clean:
    def test_database(self):
        name = connection.settings_dict["NAME"]
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            self.assertEqual(cursor.fetchone()[0], name)
        self.assertIn("test_dbpool_", name)

    def test_starts_empty(self):
        self.assertEqual(Book.objects.count(), 0)
        Book.objects.create(title="left to the test case")

    def test_starts_empty_again(self):
        self.test_starts_empty()

class One(Clean, TestCase):
    def test_client_sees_the_transaction(self):
        Book.objects.create(title="uncommitted")
        with override_settings(ROOT_URLCONF=__name__):
            self.assertEqual(self.client.get("/count").content, b"1")

class Two(Clean, TransactionTestCase):
    def test_other_threads_see_what_is_committed(self):
        Book.objects.create(title="committed")
        def count():
            try:
                return Book.objects.count()
            finally:
                connection.close()
        with ThreadPoolExecutor(1) as executor:
            self.assertEqual(executor.submit(count).result(), 1)

@override_settings(ROOT_URLCONF=__name__)
class Three(LiveServerTestCase):
    def test_server_answers(self):
        Book.objects.create(title="committed")
        for _ in range(5):
            with urlopen(self.live_server_url + "/count") as answer:
                self.assertEqual(answer.read(), b"1")

class Four(Clean, TestCase):
    pass
"""


@pytest.mark.parametrize("parallel", [pytest.param("1", marks=pytest.mark.exhaustive), "2"])
def test_the_test_runner_works_unchanged(run: Run, tmp_path: Path, parallel: str) -> None:
    (tmp_path / "test_shelf.py").write_text(TESTS)
    test = ("test", "--noinput", "--parallel", parallel, "test_shelf")
    done = run("-W", "ignore::DeprecationWarning", *MANAGE, *test)
    assert re.search(r"^Ran 12 tests.*^OK", done.stderr, re.DOTALL | re.MULTILINE)
    assert "Destroying test database" in done.stderr
    assert "came back" not in done.stderr  # no warning where Django does as it always does
    # A second run finds nothing in its way, and one that keeps its databases reuses them.
    run("-W", "ignore::DeprecationWarning", *MANAGE, *test, "--keepdb")
    run("-W", "ignore::DeprecationWarning", *MANAGE, *test)


TWO_ALIASES = """
from django.db import connections
from django.test import TransactionTestCase
from tests.web_django.shelf.models import Book

class Both(TransactionTestCase):
    databases = ["default", "other"]

    def test_both_are_one_database(self):
        Book.objects.create(title="seen by both")
        self.assertEqual(Book.objects.using("other").count(), 1)
        for alias in self.databases:
            connections[alias].close()
"""


def test_pools_of_other_aliases_do_not_keep_a_test_database(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_shelf.py").write_text(TWO_ALIASES)
    with (tmp_path / "shop_settings.py").open("a") as settings:
        # One database with two pools, whose idle connections are both on it at the end.
        settings.write('import copy; DATABASES["other"] = copy.deepcopy(DATABASES["default"])\n')
        settings.write('DATABASES["other"]["OPTIONS"]["pool"] = {"max_size": 2}\n')
    for parallel in ("1", "2"):
        test = ("test", "--noinput", "--parallel", parallel, "test_shelf")
        done = run("-W", "ignore::DeprecationWarning", *MANAGE, *test)
        assert re.search(r"^Ran 1 test .*^OK", done.stderr, re.DOTALL | re.MULTILINE)


def test_an_idle_connection_does_not_keep_a_test_database_from_being_made_anew(run: Run) -> None:
    script = """
        import django
        django.setup()
        from django.db import connection
        own = connection.settings_dict["NAME"]
        for _ in range(2):
            name = connection.creation.create_test_db(verbosity=0, autoclobber=True)
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_database()")
                print(cursor.fetchone()[0] == name)
            connection.close()
            idle = connection.pool.get_stats()["pool_available"]
            # Whoever makes it now has not been told that it is there.
            connection.settings_dict["NAME"] = own
        print(idle)
        connection.settings_dict["NAME"] = name
        connection.creation.destroy_test_db(own, verbosity=0)
    """
    done = run("-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script))
    assert done.stdout == "True\nTrue\n1\n"


def test_idle_connections_do_not_keep_a_test_database_from_being_copied(run: Run) -> None:
    script = """
        import django
        django.setup()
        from django.db import connection
        own = connection.settings_dict["NAME"]
        creation = connection.creation
        name = creation.create_test_db(verbosity=0, autoclobber=True)
        other = connection.copy("other")  # whose pool Django's own close_pool() does not close
        other.settings_dict["OPTIONS"]["pool"] = {"max_size": 2}

        def leave_idle(*wrappers):
            for wrapper in wrappers:
                wrapper.ensure_connection()
                wrapper.close()
            return [wrapper.pool for wrapper in wrappers]

        left = leave_idle(connection, other)
        creation.clone_test_db("1", verbosity=0, autoclobber=True)
        print([pool.closed for pool in left])
        left = leave_idle(connection, other)
        creation.setup_worker_connection(1)
        print([pool.closed for pool in left])
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            print(cursor.fetchone()[0] == name + "_1")
        connection.close()
        connection.settings_dict["NAME"] = name
        leave_idle(connection, other)
        creation.destroy_test_db(suffix="1", verbosity=0)
        creation.destroy_test_db(own, verbosity=0)
    """
    done = run("-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script))
    assert done.stdout == "[True, True]\n[True, True]\nTrue\n"


# Python chooses how the runner's workers start: fork on Linux, spawn on macOS and Windows.
SPAWNED = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from django.core.management import execute_from_command_line
    execute_from_command_line(sys.argv)
"""


def test_the_test_runner_works_with_spawned_workers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_shelf.py").write_text(TESTS)
    (tmp_path / "spawned.py").write_text(SPAWNED)
    test = ("test", "--noinput", "--parallel", "2", "test_shelf")
    done = run("-W", "ignore::DeprecationWarning", "spawned.py", *test)
    assert re.search(r"^Ran 12 tests.*^OK", done.stderr, re.DOTALL | re.MULTILINE)
    assert "Cloning test database" in done.stderr
    assert "came back" not in done.stderr


PYTEST_INI = """
[pytest]
DJANGO_SETTINGS_MODULE = shop_settings
addopts = -p no:cacheprovider
"""

PYTEST_TESTS = """
import pytest
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen
from django.db import connection
from django.http import HttpResponse
from django.urls import path
from tests.web_django.shelf.models import Book

def count(request):
    return HttpResponse(str(Book.objects.count()))

urlpatterns = [path("count", count)]

def in_own_database():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        return cursor.fetchone()[0] == connection.settings_dict["NAME"]

@pytest.mark.django_db
@pytest.mark.parametrize("number", range(4))
def test_rolled_back(number):
    assert in_own_database()
    assert Book.objects.count() == 0
    Book.objects.create(title="rolled back")

@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", range(3))
def test_committed(number):
    assert Book.objects.count() == 0
    Book.objects.create(title="committed")
    def other():
        try:
            return Book.objects.count()
        finally:
            connection.close()
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(other).result() == 1

@pytest.mark.django_db(transaction=True)
@pytest.mark.urls(__name__)
def test_live_server(live_server):
    Book.objects.create(title="committed")
    for _ in range(5):
        with urlopen(live_server.url + "/count") as answer:
            assert answer.read() == b"1"

@pytest.mark.django_db
@pytest.mark.urls(__name__)
def test_client(client):
    Book.objects.create(title="uncommitted")
    assert client.get("/count").content == b"1"

def test_without_the_mark():
    with pytest.raises(RuntimeError, match="Database access not allowed"):
        Book.objects.count()
"""


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.exhaustive)])
def test_pytest_django_works_unchanged(run: Run, tmp_path: Path, workers: str) -> None:
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    (tmp_path / "test_shelf.py").write_text(PYTEST_TESTS)
    command = ("-m", "pytest", "-n", workers, "-p", "no:randomly")
    # A second run finds nothing in its way, and what it keeps the third does not trip over.
    for reuse in ((), ("--reuse-db",), ("--create-db",))[: 3 if workers == "0" else 2]:
        done = run("-W", "ignore::DeprecationWarning", *command, *reuse)
        assert "10 passed" in done.stdout
        assert "came back" not in done.stdout + done.stderr
