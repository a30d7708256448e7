"""docs/django.md: its tutorial leads to a site that works, and its other blocks do what it says."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dbpool_django import _settings
from testproject.postgres import PostgresServer
from tests.support.documents import Block, Document
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
PAGE = Document(ROOT / "docs" / "django.md")
TUTORIAL = PAGE.section("From an empty folder to a site behind gunicorn")

# Every other block, by a text in it, and the test that runs it.
TESTED = {
    "requests_waiting": "test_the_pools_of_a_process_can_be_asked",
    "def configure": "test_what_configure_does_is_done_once_per_connection",
    "ReleaseBeforeResponse": "test_the_middleware_is_there",
    "@released": "test_a_released_function_leaves_nothing_behind",
    "class TenantMiddleware": "test_a_tenant_sees_its_own_rows_only",
    "CREATE POLICY": "test_a_tenant_sees_its_own_rows_only",
    "import base as prometheus": "test_a_class_with_both_bases_has_both",
    "# was django.db.backends.postgresql": "test_settings_of_djangos_pool_are_taken_as_they_are",
    "POOL_SIZE": "test_the_settings_before_are_translated_to_those_after",
    "CONN_HEALTH_CHECKS": "test_the_settings_before_are_translated_to_those_after",
    "DISABLE_SERVER_SIDE_CURSORS": "test_the_settings_for_pgbouncer_pass_the_checks",
}


def test_every_block_is_run_by_a_test() -> None:
    others = [block for block in PAGE.blocks if block not in TUTORIAL]
    assert len(others) == len(TESTED)
    for text, test in TESTED.items():
        assert PAGE.block(text)
        assert test in globals()


def test_links_lead_somewhere() -> None:
    assert PAGE.broken_links() == []


def test_every_check_has_its_section() -> None:
    ids = {
        number
        for path in (ROOT / "dbpool_django").rglob("*.py")
        for number in re.findall(r'"([EWI]\d{3})"', path.read_text())
    }
    assert ids
    assert set(re.findall(r"^### ([EWI]\d{3})$", PAGE.text, flags=re.MULTILINE)) == ids


# -- the tutorial


class Site:
    """What the tutorial has made, in its folder, against a server of its own."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.folder = folder
        self.server = server
        self.done: list[str] = []
        programs = Path(sys.executable).parent
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            # A file that changes within a second would not be compiled anew.
            "PYTHONDONTWRITEBYTECODE": "1",
            # As on a machine where the server has the usual port.
            "PGPORT": str(server.port),
            "PGPASSWORD": server.password,
        }

    def python(self, *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{arguments}:\n{ended.stdout}{ended.stderr}"
        self.printed, self.errors = ended.stdout, ended.stderr
        return ended.stdout

    def script(self, code: str) -> Any:
        """Run code with the site set up; return the JSON that it prints last."""
        begin = "import os, json, django\nos.environ['DJANGO_SETTINGS_MODULE'] = 'shop.settings'\n"
        return json.loads(self.python("-c", f"{begin}django.setup()\n{code}").splitlines()[-1])

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if block.language == "console":
            for command, shown in block.commands:
                self.command(command, shown)
            return
        assert block.file, block.code
        path = self.folder / block.file
        assert path.parent.is_dir(), f"{block.file}: no such folder at this point"
        append = "at its end" in block.code.splitlines()[0]
        path.write_text((path.read_text() if append else "") + block.code)

    def command(self, line: str, shown: str) -> None:
        self.done.append(line)
        words = shlex.split(line)
        if words[0] == "psql":
            for word in words[1:]:
                if word != "-c":
                    self.server.sql(word)
        elif words[0] == "django-admin":
            self.python("-m", "django", *words[1:])
        elif words[0] == "python":
            self.output = self.python(*words[1:])
        elif words[0] == "curl":
            self.curl(words[1:], shown)
        elif words[0] == "pip":
            (extras,) = re.findall(r"\[(.*)\]", words[-1])
            assert words[-1] == f"dbpool-web[{extras}]"
            known = importlib.metadata.metadata("dbpool-web").get_all("Provides-Extra")
            assert set(extras.split(",")) <= set(known or ())
        elif words[0] == "gunicorn":
            self.gunicorn = words[1:]
        else:
            assert line in ("python3 -m venv .venv", ". .venv/bin/activate"), line

    def curl(self, words: list[str], shown: str) -> None:
        url = words[-1].replace("http://localhost:8000", self.address)
        data = words[words.index("-d") + 1].encode() if "-d" in words else None
        with urllib.request.urlopen(url, data, timeout=30) as answer:
            assert answer.read().decode().strip() == shown.strip(), words

    @contextmanager
    def served(self) -> Iterator[None]:
        """Run gunicorn as the page says, on a port that is free."""
        options = [word.replace("localhost:8000", "127.0.0.1:0") for word in self.gunicorn]
        assert options != self.gunicorn
        log = self.folder / "gunicorn.log"
        launch = ("-m", "testproject.demo.launch", str(os.getpid()))
        with log.open("wb") as output:
            server = subprocess.Popen(
                [sys.executable, *launch, "--no-control-socket", *options],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            found = wait_until(
                lambda: re.search(r"Listening at: (http://\S+)", log.read_text()), 30, log.read_text
            )
            self.address = found[1]
            yield
        finally:
            server.terminate()
            server.wait(30)
        assert server.returncode == 0, log.read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site of the tutorial, up to where it is served."""
    with PostgresServer() as server:
        site = Site(tmp_path_factory.mktemp("site"), server)
        for block in TUTORIAL:
            if "curl" not in block.code:
                site.follow(block)
        yield site


def test_the_tutorial_ends_with_a_site_that_serves(site: Site) -> None:
    assert [line.split()[0] for line in site.done].count("python") == 6
    assert site.done[-1].startswith("gunicorn ")
    assert "--threads 8" in site.done[-1]
    (answers,) = [block for block in TUTORIAL if "curl" in block.code]
    with site.served():
        site.follow(answers)
    assert site.server.sql("SELECT customer FROM orders_order", "shop") == "Ada"


def test_the_tutorials_test_tests_its_view(site: Site) -> None:
    views = site.folder / "orders" / "views.py"
    code = views.read_text()
    views.write_text(code.replace("status=201", "status=200"))
    try:
        with pytest.raises(AssertionError, match="200 != 201"):
            site.python("manage.py", "test")
    finally:
        views.write_text(code)
    site.python("manage.py", "test")
    assert "\nOK\n" in site.errors


def test_the_command_tells_what_the_tutorial_has_set(site: Site) -> None:
    told = site.python("manage.py", "dbpool")
    assert re.search(r"^max_size +4$", told, flags=re.MULTILINE)
    assert re.search(r"^timeout +5", told, flags=re.MULTILINE)


# -- the other blocks, in the tutorial's site


def test_the_pools_of_a_process_can_be_asked(site: Site) -> None:
    asked = site.script(f"{PAGE.block('requests_waiting')}\nprint(json.dumps(alias))")
    assert asked == "default"


def test_what_configure_does_is_done_once_per_connection(site: Site) -> None:
    block = Block("python", PAGE.block("def configure"))
    site.follow(block)
    assert site.script("""
from django.db import connection
connection.settings_dict["OPTIONS"]["pool"]["configure"] = "shop.connections.configure"
found = []
for _ in range(2):
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        found.append(cursor.fetchone()[0])
    connection.close()
print(json.dumps([found, connection.pool.get_stats()["connections_num"]]))
""") == [["15s", "15s"], 1]


def test_the_middleware_is_there(site: Site) -> None:
    namespace: dict[str, Any] = {}
    exec(PAGE.block("ReleaseBeforeResponse"), namespace)
    assert site.script(f"""
from django.conf import settings
from django.test import Client
settings.MIDDLEWARE = {namespace["MIDDLEWARE"]!r}
from django.core.checks import run_checks
ids = [message.id for message in run_checks() if message.id.startswith("dbpool_django.")]
codes = [Client().get(path).status_code for path in ("/healthz/db", "/orders/")]
print(json.dumps([*codes, ids]))
""") == [200, 200, []]


def test_a_released_function_leaves_nothing_behind(site: Site) -> None:
    site.follow(Block("python", PAGE.block("@released")))
    assert site.script("""
from django.db import connection
from orders.reports import total
total()
stats = connection.pool.get_stats()
print(json.dumps([stats["pool_available"], stats["pool_size"], stats["requests_num"]]))
""") == [1, 1, 1]


TENANTS = """
from django.conf import settings
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from orders import views
import shop.urls
settings.MIDDLEWARE = ["shop.tenants.TenantMiddleware"]
settings.DATABASES["default"]["USER"] = connection.settings_dict["USER"] = "visitor"

def notes(request):
    with connection.cursor() as cursor:
        if request.method == "POST":
            cursor.execute("INSERT INTO note (body) VALUES (%s)", [request.POST["body"]])
        if request.POST.get("body") == "raises":
            raise LookupError
        cursor.execute("SELECT body FROM note ORDER BY body")
        return HttpResponse(",".join(row[0] for row in cursor))

shop.urls.urlpatterns.append(path("notes/", notes))
client = Client(raise_request_exception=False)
found = []
for tenant, body in (("a", "1"), ("b", "2"), ("a", "3"), ("a", "raises")):
    found.append(client.post("/notes/", {"body": body}, headers={"X-Tenant": tenant}).status_code)
for tenant in ("a", "b", ""):
    found.append(client.get("/notes/", headers={"X-Tenant": tenant}).content.decode())
connection.close()
with connection.cursor() as cursor:
    cursor.execute("SELECT current_setting('app.tenant', true)")
    found.append(cursor.fetchone()[0] or "")
print(json.dumps(found))
"""


def test_a_tenant_sees_its_own_rows_only(site: Site) -> None:
    site.server.sql(PAGE.block("CREATE POLICY"), "shop")
    # With the password that the page's settings have.
    visitor = "CREATE ROLE visitor LOGIN PASSWORD 'secret'; GRANT ALL ON note TO visitor"
    site.server.sql(visitor, "shop")
    site.follow(Block("python", PAGE.block("class TenantMiddleware")))
    assert site.script(TENANTS) == [200, 200, 200, 500, "1,3", "2", "", ""]


FAULTS = """
import logging, sys
from concurrent.futures import ThreadPoolExecutor
from django.db import OperationalError, connection
logging.getLogger("dbpool").addHandler(logging.StreamHandler(sys.stdout))
connection.settings_dict["OPTIONS"]["pool"] = {"max_size": 1, "timeout": 0.2, "connect_timeout": 60}
connection.pool.putconn(connection.pool.getconn(60))  # so that nobody waits for a connect
with connection.cursor() as cursor:
    cursor.execute("BEGIN")

def wait():
    from django.db import connection
    try:
        connection.ensure_connection()
    except OperationalError as error:
        return str(error)

with ThreadPoolExecutor(1) as executor:
    print(executor.submit(wait).result())
connection.close()
print("[]")
"""


def test_the_messages_that_it_explains_are_those_of_the_pool(site: Site) -> None:
    site.script(FAULTS)
    explained = re.findall(r"^### `(.*)`$", PAGE.text, flags=re.MULTILINE)
    ours = [text for text in explained if "connection" in text and "PgBouncer" not in text]
    assert len(ours) == 2
    for text in ours:
        numberless = re.sub(r"\d+", r"[\\d.]+", re.escape(text))
        assert re.search(numberless, site.printed), text


def test_a_class_with_both_bases_has_both(site: Site) -> None:
    """With a stand-in for django-prometheus; `make test-ecosystem` has the package itself."""
    assert site.script(f"""
import sys, types
from django.db import connection
from django.db.backends.postgresql import base
counted = []
class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self):
        counted.append("connect")
        return super().get_connection_params()
    def create_cursor(self, name=None):
        counted.append("cursor")
        return base.DatabaseWrapper.create_cursor(self, name=name)
package = "django_prometheus.db.backends.postgresql"
for name in ("django_prometheus", "django_prometheus.db", "django_prometheus.db.backends", package):
    sys.modules[name] = types.ModuleType(name)
sys.modules[package].base = types.SimpleNamespace(DatabaseWrapper=DatabaseWrapper)
namespace = {{}}
exec({PAGE.block("import base as prometheus")!r}, namespace)
both = namespace["DatabaseWrapper"](dict(connection.settings_dict), "default")
for _ in range(3):
    with both.cursor() as cursor:
        cursor.execute("SELECT 1")
    both.close()
print(json.dumps([counted.count("connect") > 0, counted.count("cursor") > 0,
                  both.pool.get_stats()["connections_num"]]))
both.close_pool()
""") == [True, True, 1]


# -- settings of elsewhere


def checked(database: dict[str, Any]) -> list[Any]:
    from dbpool_django.checks import check_alias

    defaults = {"CONN_MAX_AGE": 0, "PORT": "", "OPTIONS": {}, "DISABLE_SERVER_SIDE_CURSORS": False}
    return check_alias("default", {**defaults, **database})


def test_settings_of_djangos_pool_are_taken_as_they_are() -> None:
    namespace: dict[str, Any] = {}
    exec(PAGE.block("# was django.db.backends.postgresql"), namespace)
    database = namespace["DATABASES"]["default"]
    assert checked(database) == []
    options = _settings.pool_options({"CONN_MAX_AGE": 0, **database}, "default")
    assert (options["min_size"], options["max_size"], options["timeout"]) == (2, 8, 10)


@pytest.mark.parametrize("before", ["POOL_SIZE", "CONN_HEALTH_CHECKS"])
def test_the_settings_before_are_translated_to_those_after(before: str) -> None:
    namespace: dict[str, Any] = {}
    exec(PAGE.block(before), namespace)
    old, new = namespace["BEFORE"], namespace["AFTER"]
    assert checked(new) == []
    (message,) = checked({**old, "ENGINE": new["ENGINE"]})
    pool = new["OPTIONS"]["pool"]
    if before == "POOL_SIZE":
        said = re.search(r'"pool": (\{.*?\})', message.hint)
        assert said
        assert eval(said[1]) == pool
    else:  # taken as it is, and the check says what it is called here
        options = _settings.pool_options({"OPTIONS": {}, **old}, "default")
        assert options["max_lifetime"] == pool["max_lifetime"]
        assert "max_lifetime" in message.hint


def test_the_settings_for_pgbouncer_pass_the_checks() -> None:
    namespace: dict[str, Any] = {}
    exec(PAGE.block("DISABLE_SERVER_SIDE_CURSORS"), namespace)
    database = namespace["DATABASES"]["default"]
    assert checked(database) == []
    database["DISABLE_SERVER_SIDE_CURSORS"] = False
    assert [message.id for message in checked(database)] == ["dbpool_django.W004"]
