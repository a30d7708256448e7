"""PostGIS on a pool; skipped where the server or this machine lacks what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from ctypes.util import find_library
from typing import Any

import psycopg2
import pytest

from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.servers import Postgres
from tests.web_django.project import DRIVER, database, is_inside
from tests.web_django.site import Site


def _missing(postgres: Postgres) -> str | None:
    """Return what PostGIS lacks here, or None."""
    for library in ("gdal", "geos_c"):
        if not find_library(library):
            return f"the library {library} (Debian, Ubuntu: apt-get install libgdal32 libgeos-c1v5)"
    with closing(psycopg2.connect(postgres.dsn())) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'postgis'")
        if cursor.fetchone() is None:
            return "the server's extension (Debian, Ubuntu: apt-get install postgis)"
    return None


pytestmark = pytest.mark.project(
    tables=False,
    settings={"INSTALLED_APPS": ["django.contrib.gis", "tests.web_django.shelf"]},
    database={"ENGINE": "dbpool_django.backends.postgis"},
)


@pytest.fixture
def places(site: Site, postgres: Postgres) -> Iterator[Any]:
    """A model with a point, on a server of the test's own that has no extension at first."""
    if not is_inside():
        if missing := _missing(postgres):
            pytest.skip(f"PostGIS lacks {missing}")
        yield None
        return
    from django.contrib.gis.db import models
    from django.db import connection

    class Place(models.Model):
        name = models.TextField()
        point = models.PointField(geography=False, srid=4326)

        class Meta:
            app_label = "shelf"

    with PostgresServer() as server:
        place = database(server.dsn(), {"max_size": 2})
        place.pop("ENGINE")
        connection.settings_dict.update(place)
        # Opened before the extension is there, as `migrate` and the test runner do.
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()
        connection.prepare_database()
        with connection.schema_editor() as editor:
            editor.create_model(Place)
        connection.close()
        yield Place
        connection.close()
        connection.close_pool()


def test_points_come_and_go_on_pooled_connections(site: Site, places: Any) -> None:
    from django.contrib.gis.geos import Point
    from django.contrib.gis.measure import D
    from django.db import connection
    from django.http import HttpResponse

    assert connection.vendor == "postgresql"
    assert connection.pool.driver.name == DRIVER

    @site.view("write")
    def write(request: Any) -> Any:
        number = places.objects.count()
        place = places.objects.create(name="x", point=Point(13.4, 52.5, srid=4326))
        found = places.objects.get(pk=place.pk).point
        return HttpResponse(f"{number >= 0} {found.x} {found.y} {found.srid}")

    with ThreadPoolExecutor(4) as executor:
        answers = set(executor.map(site.get, ["write"] * 20))
    assert answers == {(200, "True 13.4 52.5 4326")}
    near = places.objects.filter(point__dwithin=(Point(13.4, 52.5, srid=4326), 0.1))
    far = places.objects.filter(point__distance_gt=(Point(13.4, 52.5, srid=4326), D(m=1)))
    assert (near.count(), far.count()) == (20, 0)
    connection.close()
    stats = connection.pool.get_stats()
    assert stats["pool_size"] <= 2
    assert stats["pool_available"] == stats["pool_size"]
    inside.audit(connection.pool)


def test_a_cleaned_session_still_knows_the_types(site: Site, places: Any) -> None:
    from django.contrib.gis.geos import Point
    from django.db import connection
    from django.http import HttpResponse

    @site.view("changes")
    def changes(request: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 4321")
        return HttpResponse("ok")

    assert site.get("changes").status == 200
    connects = connection.pool.get_stats()["connections_num"]
    places.objects.create(name="one", point=Point(1, 2, srid=4326))
    assert places.objects.get().point.coords == (1.0, 2.0)
    connection.close()
    assert connection.pool.get_stats()["connections_num"] == connects
