"""Django's wrappers, of which there are many, and the pool, of which there is one."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from tests.support import inside
from tests.support.waiting import wait_until
from tests.web_django.project import Project
from tests.web_django.site import Site


def _free() -> bool:
    from django.db import connection

    stats = connection.pool.get_stats()
    return bool(stats["pool_available"] == stats["pool_size"])


@pytest.mark.project(pool={"max_size": 2, "timeout": 10})
def test_hundreds_of_wrappers_share_the_pool_and_leave_nothing(project: Project) -> None:
    from django.db import connection

    pool = connection.pool
    wrappers = [connection.copy() for _ in range(300)]
    for wrapper in wrappers:
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert wrapper.pool is pool
        wrapper.close()
    assert project.sessions() == 1
    references = [weakref.ref(wrapper) for wrapper in wrappers]
    del wrappers, wrapper, cursor
    gc.collect()
    assert not any(reference() for reference in references)
    inside.audit(pool)


@pytest.mark.project(pool={"max_size": 2})
def test_settings_that_django_does_not_have_make_no_pool_unless_a_class_connects_by_them() -> None:
    """django-tenants writes SCHEMA at each switch, and its wrapper connects as ours does."""
    from django.db import connection

    wrapper_class: Any = type(connection._connections[connection._alias])  # type: ignore[attr-defined]

    class Tenants(wrapper_class):  # type: ignore[misc]
        def set_tenant(self, name: str) -> None:
            self.settings_dict["SCHEMA"] = name

        def _cursor(self, name: str | None = None) -> Any:
            return super()._cursor(name)

    class ByTenant(Tenants):
        def get_connection_params(self) -> dict[str, Any]:
            given = super().get_connection_params()
            return {**given, "application_name": self.settings_dict.get("SCHEMA", "")}

    def switching(wrapper: Any) -> list[Any]:
        found = []
        for name in ("a", "b", "c", "a"):
            wrapper.set_tenant(name)
            found.append(wrapper.pool)
            wrapper.ensure_connection()
            wrapper.close()
        return found

    settings = connection.settings_dict
    shared, apart = (each(dict(settings), "default") for each in (Tenants, ByTenant))
    pools = switching(shared)
    assert len({id(pool) for pool in pools}) == 1
    assert pools[0].get_stats()["connections_num"] == 1
    shared.settings_dict["USER"] = "somebody else"
    assert shared.pool is not pools[0]
    of_each = switching(apart)
    assert of_each[0] is of_each[3]
    assert len({id(pool) for pool in of_each}) == 3
    for wrapper in (shared, apart):
        wrapper.close_pool()


@pytest.mark.project(pool={"max_size": 2})
def test_the_settings_stay_the_same_object() -> None:
    from django.db import connection, connections

    settings, options = connection.settings_dict, connection.settings_dict["OPTIONS"]
    connection.ensure_connection()
    assert "pool" not in connection.get_connection_params()
    connection.close()
    connection.close_pool()
    assert connection.settings_dict is settings is connections["default"].settings_dict
    assert connection.settings_dict["OPTIONS"] is options
    assert options["pool"] == {"max_size": 2}


@pytest.mark.project(pool={"max_size": 2})
def test_connection_created_is_sent_whenever_a_connection_is_taken(site: Site) -> None:
    from django.db import connection, transaction
    from django.db.backends.signals import connection_created
    from django.http import HttpResponse

    sent: list[Any] = []

    def receive(sender: Any, connection: Any, **kwargs: Any) -> None:
        assert isinstance(connection, sender)
        assert connection.connection is not None
        sent.append(connection.alias)

    connection_created.connect(receive)

    @site.view("two")
    def two(request: Any) -> Any:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return HttpResponse("ok")

    @site.view("none")
    def none(request: Any) -> Any:
        return HttpResponse("ok")

    for _ in range(3):
        assert site.get("two").status == 200
        assert site.get("none").status == 200
    assert sent == ["default"] * 3
    assert connection.pool.get_stats()["connections_num"] == 1


@pytest.mark.project(pool={"max_size": 1, "timeout": 30})
def test_a_receiver_of_connection_created_that_raises_costs_no_slot() -> None:
    from django.db import connection
    from django.db.backends.signals import connection_created

    def refuse(**kwargs: Any) -> None:
        raise LookupError

    connection_created.connect(refuse)
    for _ in range(3):
        with pytest.raises(LookupError):
            connection.ensure_connection()
        connection.close()
    connection_created.disconnect(refuse)
    connection.ensure_connection()
    connection.close()
    assert _free()
    inside.audit(connection.pool)


@pytest.mark.project(pool={"max_size": 2, "timeout": 30})
def test_asyncio_to_thread_costs_no_slot(site: Site) -> None:
    from django.http import HttpResponse

    from dbpool_django import released
    from tests.web_django.asgi import answer_of
    from tests.web_django.shelf.models import Book

    @site.view("threads")
    async def threads(request: Any) -> Any:
        return HttpResponse(str(await asyncio.to_thread(released(Book.objects.count))))

    async def run() -> list[int]:
        return await asyncio.gather(*(answer_of("threads") for _ in range(8)))

    assert asyncio.run(run()) == [200] * 8
    wait_until(_free)  # a connect may be under way yet, for one who has been served since


@pytest.mark.project(pool={"max_size": 2, "timeout": 10})
def test_threads_that_outnumber_the_connections_wait_their_turn(site: Site) -> None:
    from django.http import HttpResponse

    from tests.web_django.shelf.models import Book

    @site.view("count")
    def count(request: Any) -> Any:
        return HttpResponse(str(Book.objects.count()))

    statuses: list[int] = []

    def client() -> None:
        for _ in range(10):
            statuses.append(site.get("count").status)

    threads = [threading.Thread(target=client) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 120
    assert _free()


@pytest.mark.project(tables=False)
def test_cursors_that_are_dropped_are_not_remembered_for_ever() -> None:
    from django.db import connection

    held = [connection.cursor() for _ in range(150)]
    del held
    for _ in range(500):
        connection.cursor().execute("SELECT 1")
    assert len(connection._dbpool_loan.cursors) <= 101
    connection.close()


@pytest.mark.project(tables=False)
def test_the_drivers_options_are_all_but_the_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connection

    options = {"pool": {"max_size": 2}, "sslmode": "prefer", "connect_timeout": 7}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    given = connection.get_connection_params()
    assert (given["sslmode"], given["connect_timeout"]) == ("prefer", 7)
    assert "pool" not in given


@pytest.mark.project(tables=False)
def test_one_that_somebody_has_put_in_the_place_of_ours_is_closed_with_the_wrapper() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    other = connection.pool.getconn()
    connection.pool.putconn(other)  # not lent: the pool does not take it
    ours, connection.connection = connection.connection, other
    connection.close()
    assert other.closed
    assert connection.connection is None
    del ours  # dropped, and so its slot is free
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    inside.find_lost(connection.pool)  # the background thread may not have had its turn yet
    inside.audit(connection.pool)
