"""System checks, and `manage.py dbpool`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest

from testproject.postgres import PostgresServer
from tests.support import inside
from tests.web_django.project import DRIVER, Project, database, is_inside

APP = {"INSTALLED_APPS": ["dbpool_django", "tests.web_django.shelf"]}


def _ids(messages: list[Any]) -> list[str]:
    return [message.id.removeprefix("dbpool_django.") for message in messages]


def _static(pool: object = None, **changes: Any) -> list[Any]:
    from dbpool_django.checks import check_alias

    settings: dict[str, Any] = {
        **database("dbname=shop user=app password=hunter2 host=db port=5432", pool),
        "CONN_MAX_AGE": 0,
        "DISABLE_SERVER_SIDE_CURSORS": False,
        **changes,
    }
    messages = check_alias("default", settings)
    for message in messages:
        assert message.hint
        assert f"(docs/django.md, {_ids([message])[0]})" in message.hint
        assert "hunter2" not in message.msg + message.hint
    return messages


@pytest.mark.project(tables=False)
@pytest.mark.parametrize(
    ("pool", "changes", "expected"),
    [
        (None, {}, []),
        ({"max_size": 4}, {}, []),
        (False, {"CONN_MAX_AGE": 600}, []),
        ({"max_szie": 4}, {}, ["E001"]),
        ({"max_size": 0}, {}, ["E001"]),
        ("yes", {}, ["E001"]),
        ({"min_size": 4, "max_size": 2}, {}, ["E002"]),
        (None, {"CONN_MAX_AGE": 600}, ["W001"]),
        (None, {"CONN_MAX_AGE": None}, ["W001"]),
        ({"max_lifetime": 60}, {"CONN_MAX_AGE": 600}, ["W001"]),
        (None, {"PORT": "6432"}, ["W004"]),
        (None, {"PORT": 6432, "DISABLE_SERVER_SIDE_CURSORS": True}, []),
        ({"num_workers": 3, "open": True}, {}, ["W005"]),
        (None, {"POOL_OPTIONS": {"POOL_SIZE": 5, "MAX_OVERFLOW": 5, "RECYCLE": 900}}, ["W006"]),
        (None, {"OPTIONS": {"MAX_CONNS": 20}}, ["W006"]),
    ],
)
def test_settings_are_checked(pool: object, changes: dict[str, Any], expected: list[str]) -> None:
    assert _ids(_static(pool, **changes)) == expected


TOOLS = ["dbbackup", "cachalot", "django_extensions"]
OURS = "dbpool_django.backends.postgresql"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the tools installed, as far as their names go: `make test-ecosystem` has them."""
    if is_inside():
        from django.apps import apps

        is_installed = apps.is_installed
        monkeypatch.setattr(apps, "is_installed", lambda name: name in TOOLS or is_installed(name))


def _unknown(engine: str = OURS, **settings: Any) -> list[str]:
    """Return the hints for tools that do not know the ENGINE, with these settings."""
    from django.test import override_settings

    with override_settings(**settings):
        messages = _static(False, ENGINE=engine)
    assert set(_ids(messages)) <= {"W010"}
    assert all(engine in message.msg for message in messages)
    return [message.hint.partition(" (docs")[0] for message in messages]


@pytest.mark.project(tables=False)
def test_installed_tools_that_go_by_the_engines_name_are_named_with_their_setting(
    installed: None,
) -> None:
    assert _unknown() == [
        (
            f"Add DBBACKUP_CONNECTOR_MAPPING = "
            f"{{'{OURS}': 'dbbackup.db.postgresql.PgDumpBinaryConnector'}}."
        ),
        f"Add CACHALOT_ADDITIONAL_SUPPORTED_DATABASES = {{'{OURS}'}}.",
        (
            f"Add DJANGO_EXTENSIONS_RESET_DB_POSTGRESQL_ENGINES = ['{OURS}'] "
            "(in place of its own list)."
        ),
    ]
    gis, sqlite = (OURS.replace("postgresql", kind) for kind in ("postgis", "sqlite3"))
    assert "PgDumpGisConnector" in _unknown(gis)[0]
    assert "SqliteBackupConnector" in _unknown(sqlite)[0]
    assert "RESET_DB_SQLITE_ENGINES" in _unknown(sqlite)[2]


@pytest.mark.project(tables=False)
def test_tools_that_have_been_told_are_not_named(installed: None) -> None:
    told: dict[str, Any] = {
        "DBBACKUP_CONNECTOR_MAPPING": {OURS: "dbbackup.db.postgresql.PgDumpBinaryConnector"},
        "CACHALOT_ADDITIONAL_SUPPORTED_DATABASES": {OURS},
        "DJANGO_EXTENSIONS_RESET_DB_POSTGRESQL_ENGINES": [OURS],
    }
    assert _unknown(**told) == []
    for setting, value in (
        ("DBBACKUP_CONNECTORS", {"default": {"CONNECTOR": "shop.backup.Connector"}}),
        ("CACHALOT_DATABASES", {"default"}),
        ("CACHALOT_ENABLED", False),
        ("CACHALOT_USE_UNSUPPORTED_DATABASE", True),
    ):
        kept = {
            name: known
            for name, known in told.items()
            if name.partition("_")[0] != setting.partition("_")[0]
        }
        assert _unknown(**kept, **{setting: value}) == [], setting
    assert len(_unknown("shop.database", **told)) == 3


@pytest.mark.project(tables=False)
def test_tools_that_are_not_installed_are_not_named() -> None:
    assert _unknown() == []


@pytest.mark.project(tables=False)
def test_another_packages_settings_are_translated() -> None:
    options = {"POOL_SIZE": 5, "MAX_OVERFLOW": 5, "RECYCLE": 900, "TIMEOUT": 7}
    message = _static(POOL_OPTIONS=options)[0]
    assert "{'max_size': 10, 'max_lifetime': 900, 'timeout': 7}" in message.hint
    message = _static(OPTIONS={"MAX_CONNS": 20, "REUSE_CONNS": 10})[0]
    assert "{'max_size': 20}" in message.hint


@pytest.mark.project(tables=False)
def test_more_threads_than_connections_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, expected in (
        ("--threads 12", ["W003"]),
        ("-w 2 --threads=12", ["W003"]),
        ("--threads 10", []),
        ("--threads many", []),
        ("'", []),
        ("", []),
    ):
        monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
        assert _ids(_static({"max_size": 10})) == expected


@pytest.mark.project(tables=False, settings={"DATABASE_POOL_ARGS": {"pool_size": 5, "recycle": 9}})
def test_leftovers_at_the_top_of_the_settings_are_noticed() -> None:
    from dbpool_django.checks import check_project

    message = check_project()[0]
    assert _ids([message]) == ["W006"]
    assert "{'max_size': 5, 'max_lifetime': 9}" in message.hint


@pytest.mark.project(
    tables=False,
    settings={
        "MIDDLEWARE": [
            "django.middleware.common.CommonMiddleware",
            "dbpool_django.middleware.HealthMiddleware",
        ]
    },
)
def test_a_health_check_behind_other_middleware_is_noticed() -> None:
    from dbpool_django.checks import check_project

    (message,) = check_project()
    assert _ids([message]) == ["W008"]
    assert "HealthMiddleware is number 2 in MIDDLEWARE" in message.msg


UNAVAILABLE = "dbpool_django.middleware.UnavailableMiddleware"


@pytest.mark.project(
    tables=False,
    settings={
        "MIDDLEWARE": [
            "dbpool_django.middleware.HealthMiddleware",
            "django.middleware.common.CommonMiddleware",
            UNAVAILABLE,
        ]
    },
)
def test_a_503_that_does_not_reach_all_middleware_is_noticed() -> None:
    from dbpool_django.checks import check_project

    messages = check_project()
    assert _ids(messages) == ["W009"]
    assert "CommonMiddleware" in messages[0].msg


@pytest.mark.project(
    tables=False,
    settings={"MIDDLEWARE": ["dbpool_django.middleware.HealthMiddleware", UNAVAILABLE], **APP},
)
def test_middleware_in_its_place_is_no_message() -> None:
    assert _run_checks(include_deployment_checks=True) == []


@pytest.mark.project(tables=False, settings=APP)
def test_a_site_that_is_to_be_served_is_told_of_the_503() -> None:
    assert _run_checks() == []
    assert _run_checks(include_deployment_checks=True) == ["I002"]


@pytest.mark.project(tables=False)
def test_two_pools_on_one_database_are_noticed(project: Project) -> None:
    from django.db import connections

    from dbpool_django.checks import check_project

    for alias, pool, test in (
        ("mirror", {"max_size": 4}, {"MIRROR": "default"}),
        ("plain", False, {}),
        ("same", None, {}),
        ("other", {"max_size": 3}, {}),
    ):
        connections.settings[alias] = database(project.dsn, pool, TEST=test)
    connections.configure_settings(connections.settings)
    messages = check_project()
    assert _ids(messages) == ["W007"]
    assert "'default' and 'other'" in messages[0].msg


def _run_checks(**arguments: Any) -> list[str]:
    from django.core.checks import run_checks

    ids = [message.id for message in run_checks(**arguments) if message.id]
    return [one.removeprefix("dbpool_django.") for one in ids if one.startswith("dbpool_django")]


@pytest.mark.project(tables=False, pool={"num_workers": 3})
def test_checks_with_a_database_need_no_installed_app() -> None:
    assert "W005" not in _run_checks()
    assert _run_checks(databases=["default"]).count("W005") == 1


@pytest.mark.project(tables=False, pool={"num_workers": 3}, settings=APP)
def test_the_installed_app_checks_settings_without_a_database(project: Project) -> None:
    from django.db import connection

    assert _run_checks() == ["W005"]
    assert connection.connection is None
    assert _run_checks(databases=["default"]).count("W005") == 1


@pytest.fixture
def small() -> Iterator[PostgresServer | None]:
    """A server with few sessions, in another time zone, which the project uses."""
    if not is_inside():
        yield None
        return
    conf = {
        "max_connections": 12,
        "superuser_reserved_connections": 2,
        "timezone": "Asia/Tokyo",
        "max_wal_senders": 0,
    }
    with PostgresServer(conf=conf) as server:
        yield server


@pytest.mark.project(tables=False)
def test_what_the_server_cannot_serve_is_noticed(
    small: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg2
    from django.db import connection

    from dbpool_django.checks import check_server

    connection.settings_dict.update(database(small.dsn(), {"max_size": 4}))
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    assert _ids(check_server(connection)) == ["I001"]
    others = [psycopg2.connect(small.dsn()) for _ in range(2)]
    assert _ids(check_server(connection)) == ["I001"], "8 of ours in room for 8"
    others.append(psycopg2.connect(small.dsn()))
    messages = check_server(connection)
    assert _ids(messages) == ["W002", "I001"]
    assert "2 processes x max_size=4 can open 8 sessions" in messages[0].msg
    assert "room for 7 (max_connections 12, 2 reserved, 3 others open)" in messages[0].msg
    assert "ALTER ROLE postgres SET timezone = 'UTC'" in messages[1].hint
    for arguments in ("--workers 1", "-w 1 4"):  # the second word belongs to something else
        monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
        assert _ids(check_server(connection)) == ["I001"]
    for other in others:
        other.close()
    assert connection.connection is None


@pytest.mark.project(
    pool={"max_size": 3, "configure": "tests.web_django.callbacks.configure"},
    settings=APP,
    tables=False,
)
def test_the_command_tells_settings_arithmetic_and_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from django.core.management import call_command
    from django.db import connection

    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    out = StringIO()
    call_command("dbpool", "--json", "--test", "3", stdout=out)
    found = json.loads(out.getvalue())
    assert found["driver"].startswith(f"{DRIVER} ")
    assert (found["processes"], found["sessions_at_most"]) == (2, 6)
    assert (
        found["room"]
        == found["server"]["max_connections"]
        - found["server"]["reserved"]
        - found["server"]["others"]
    )
    assert found["options"]["max_size"] == 3
    assert found["options"]["reset"] == "auto"
    assert found["options"]["configure"] == "tests.web_django.callbacks.configure"
    assert found["look_works"]
    assert not found["server"]["pooler"]
    assert set(found["milliseconds"]) == {"connect", "ping", "checkout"}

    out = StringIO()
    call_command("dbpool", stdout=out)
    text = out.getvalue()
    assert "2 processes x 3 = 6 at most" in text
    assert "cannot be seen from a command" in text
    for secret in (connection.settings_dict["PASSWORD"], connection.settings_dict["HOST"]):
        assert not secret or secret not in text
    assert connection.connection is None
    inside.audit(connection.pool)


@pytest.mark.project(settings=APP, tables=False)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--database", "nowhere"], "no 'nowhere' in DATABASES: default"),
        (["--database", "plain"], "no pool"),
        (["--test", "0"], "1 or more"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    project: Project, arguments: list[str], said: str
) -> None:
    from django.core.management import CommandError, call_command
    from django.db import connections

    connections.settings["plain"] = database(project.dsn, False)
    connections.configure_settings(connections.settings)
    with pytest.raises(CommandError, match=said):
        call_command("dbpool", *arguments)
