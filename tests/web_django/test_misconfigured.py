"""A mistake in DATABASES is told at once, not as a database that is busy or away."""

from __future__ import annotations

import logging
from io import StringIO
from typing import Any

import pytest

from tests.web_django.project import DRIVER, Project
from tests.web_django.test_secrets import SECRET, _wrapper

LONG = 60.0  # seconds; nobody waits for as long as that


def failing(*_: Any) -> Any:
    raise KeyError("the vault is sealed")


@pytest.mark.project(tables=False)
def test_what_no_retry_mends_is_told_at_once(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    from django.db import OperationalError

    from dbpool import Misconfigured

    for changes, pool, named in (
        ({"OPTIONS": {"sslmode": "requier"}}, {}, "sslmode='requier'"),
        ({"OPTIONS": {"service": "no_such_service"}}, {}, "service='no_such_service'"),
        ({"OPTIONS": {"options": "-c no_such_setting=1"}}, {}, "options"),
        ({"HOST": "127.0.0.1,localhost", "PORT": "1,2,3"}, {}, "port"),
        ({}, {"configure": failing}, "configure raised KeyError"),
    ):
        pool = {"timeout": LONG, **pool}
        if "OPTIONS" in changes:
            changes = {"OPTIONS": {**changes["OPTIONS"], "pool": pool}}
        wrapper = _wrapper(project.dsn, pool, **changes)
        for _ in range(2):
            caplog.clear()
            with pytest.raises(OperationalError, match=named) as caught:
                wrapper.ensure_connection()
            assert isinstance(caught.value.__cause__, Misconfigured), named
        assert wrapper.pool.state == "ok"
        wrapper.close_pool()


@pytest.mark.project(tables=False)
def test_a_class_of_the_projects_own_that_raises_is_told_at_once_and_logged(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    from django.db import OperationalError

    from dbpool_django.backends.postgresql.base import DatabaseWrapper

    class Asking(DatabaseWrapper):
        def get_connection_params(self) -> dict[str, Any]:
            params = super().get_connection_params()
            if asked:
                failing()
            asked.append(True)
            return params

    asked: list[bool] = []
    wrapper = Asking(_wrapper(project.dsn, {"timeout": LONG}).settings_dict, "made")
    with pytest.raises(OperationalError, match="raised KeyError"):
        wrapper.ensure_connection()
    (record,) = [each for each in caplog.records if each.exc_info]
    assert "in failing" in logging.Formatter().format(record)
    wrapper.close_pool()


@pytest.mark.project(tables=False)
def test_a_number_that_is_none_is_refused_by_its_name(project: Project) -> None:
    from django.core.exceptions import ImproperlyConfigured

    options = {"connect_timeout": "abc"}
    with pytest.raises(ImproperlyConfigured, match='"connect_timeout"'):
        _wrapper(project.dsn, OPTIONS=options).ensure_connection()


@pytest.mark.project(tables=False)
def test_autocommit_among_the_options_is_said_to_be_a_setting(project: Project) -> None:
    """With psycopg 3, whose connect takes it, it changes nothing; AUTOCOMMIT is Django's."""
    from django.core.exceptions import ImproperlyConfigured

    wrapper = _wrapper(project.dsn, OPTIONS={"autocommit": True})
    if DRIVER == "psycopg2":
        with pytest.raises(ImproperlyConfigured, match='"AUTOCOMMIT"'):
            wrapper.ensure_connection()
    else:
        wrapper.ensure_connection()
        assert wrapper.get_autocommit()
        wrapper.close()
        wrapper.close_pool()


@pytest.mark.project(tables=False, settings={"INSTALLED_APPS": ["dbpool_django"]})
def test_the_command_says_where_the_database_is_and_what_the_driver_says(project: Project) -> None:
    from django.core.management import CommandError, call_command
    from django.db import connections

    for changes, said in (
        (
            {"HOST": "127.0.0.1", "PORT": "1"},
            r"\(connect_refused\), host 127.0.0.1, port 1: .*refus",
        ),
        ({"OPTIONS": {"sslmode": "requier"}}, r"\(misconfigured\), .*sslmode='requier'"),
    ):
        _wrapper(project.dsn, **changes)
        if hasattr(connections._connections, "made"):  # of the change before
            del connections["made"]
        with pytest.raises(CommandError, match=said) as caught:
            call_command("dbpool", database="made", stdout=StringIO())
        assert SECRET not in str(caught.value)
