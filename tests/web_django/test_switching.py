"""The ENGINE line alone switches a project over, and what it hands out is the driver's own."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.support import inside
from tests.web_django.project import DRIVER, Project
from tests.web_django.site import Site


@pytest.mark.project
def test_the_driver_is_the_one_that_is_meant() -> None:
    from django.db import connection

    assert connection.Database.__name__ == os.environ.get("DBPOOL_TEST_DRIVER", "psycopg2")
    assert connection.pool.driver.name == DRIVER


@pytest.mark.project
def test_the_engine_line_alone_gives_a_request_a_pooled_connection(
    site: Site, project: Project
) -> None:
    from django.db import connection
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("write")
    def write(request: Any) -> Any:
        Book.objects.create(title="Emma")
        assert connection.pool.get_stats()["pool_available"] == 0
        return HttpResponse("written")

    assert site.get("write") == (200, "written")
    assert project.titles() == ["Emma"]
    # Given back, and still open.
    assert connection.connection is None
    stats = connection.pool.get_stats()
    assert (stats["pool_size"], stats["pool_available"]) == (1, 1)
    assert project.sessions("dbpool:default") == 1
    inside.audit(connection.pool)


@pytest.mark.project(tables=False)
@pytest.mark.parametrize("name", ["postgresql", "postgis", "sqlite3"])
def test_all_but_the_connections_is_djangos(name: str) -> None:
    """The last word of ENGINE too: third-party code asks for both."""
    from importlib import import_module

    from django.core.exceptions import ImproperlyConfigured

    room = "django.contrib.gis.db" if name == "postgis" else "django.db"
    try:
        ours, djangos = (
            import_module(f"{path}.backends.{name}.base").DatabaseWrapper
            for path in ("dbpool_django", room)
        )
    except ImproperlyConfigured as error:
        pytest.skip(f"PostGIS lacks a library: {error}")
    assert issubclass(ours, djangos)
    parts = ("client_class", "introspection_class", "ops_class", "SchemaEditorClass")
    for part in ("vendor", "display_name", "data_types", "operators", *parts):
        assert getattr(ours, part) is getattr(djangos, part)


@pytest.mark.project
def test_the_connection_is_the_drivers_own() -> None:
    from django.db import connection

    connection.ensure_connection()
    raw = connection.connection
    # With functions that refuse a proxy.
    if DRIVER == "psycopg":
        import psycopg
        from psycopg.types import TypeInfo

        assert type(raw) is psycopg.Connection
        assert TypeInfo.fetch(raw, "text") is not None
        assert psycopg.sql.Identifier("a b").as_string(raw) == '"a b"'
    else:
        import psycopg2.extensions
        import psycopg2.extras

        # Of a subclass, as in the core: it sends a BEGIN where SQL has ended a transaction.
        assert isinstance(raw, psycopg2.extensions.connection)
        assert type(raw).__mro__[1:] == psycopg2.extensions.connection.__mro__
        psycopg2.extras.register_uuid(conn_or_curs=raw)
        assert psycopg2.extensions.quote_ident("a b", raw) == '"a b"'


@pytest.mark.project
def test_a_request_without_a_query_takes_no_connection(site: Site, project: Project) -> None:
    from django.db import connection
    from django.http import HttpResponse

    @site.view("plain")
    def plain(request: Any) -> Any:
        return HttpResponse("plain")

    assert site.get("plain").status == 200
    assert connection.pool.get_stats()["requests_num"] == 0
    assert project.sessions() == 0


@pytest.mark.project
def test_a_backend_of_the_projects_own_sees_the_parameters_of_each_connect() -> None:
    from django.db import connection

    from dbpool_django.backends.postgresql.base import DatabaseWrapper

    class Renaming(DatabaseWrapper):
        def get_connection_params(self) -> dict[str, Any]:
            params: dict[str, Any] = super().get_connection_params()
            params["application_name"] = f"for {params.pop('dbname')}"
            return {**params, "dbname": connection.settings_dict["NAME"]}

    wrapper = Renaming(connection.settings_dict, "renaming")
    for _ in range(2):
        with wrapper.cursor() as cursor:
            cursor.execute("SHOW application_name")
            assert cursor.fetchone() == (f"for {connection.settings_dict['NAME']}",)
        wrapper.close()
    assert wrapper.pool is not None
    assert wrapper.pool.get_stats()["connections_num"] == 1
    wrapper.close_pool()


@pytest.mark.project(pool={"max_size": 1}, tables=False)
def test_aliases_that_differ_in_a_setting_of_the_projects_own_have_pools_of_their_own() -> None:
    from django.db import connection

    from dbpool_django.backends.postgresql.base import DatabaseWrapper

    class Searching(DatabaseWrapper):
        def get_connection_params(self) -> Any:
            schema = self.settings_dict["SCHEMA"]
            return {**super().get_connection_params(), "options": f"-c search_path={schema}"}

    def alias(name: str, schema: str, **settings: Any) -> Any:
        return Searching({**connection.settings_dict, "SCHEMA": schema, **settings}, name)

    one, two = alias("one", "first"), alias("two", "second")
    for wrapper, schema in ((one, "first"), (two, "second")):
        with wrapper.cursor() as cursor:
            cursor.execute("SHOW search_path")
            assert cursor.fetchone() == (schema,)
        wrapper.close()
    assert one.pool is not two.pool
    assert alias("three", "first", ATOMIC_REQUESTS=True).pool is one.pool
    one.settings_dict["SCHEMA"] = "third"
    with one.cursor() as cursor:
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ("third",)
    one.close()
    one.close_pool()
    two.close_pool()
