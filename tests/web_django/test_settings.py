"""What settings say about the pool, and the one clear sentence for each that is wrong."""

from __future__ import annotations

import inspect
import os
import socket
from typing import Any

import pytest

from tests.support import inside
from tests.support.waiting import wait_until
from tests.web_django.project import DRIVER, Project, database


def _wrapper(dsn: str, pool: object = None, alias: str = "made", **changes: Any) -> Any:
    """Return a wrapper for settings of the test's own, as `connections[...]` makes one."""
    from django.db import connections

    connections.settings[alias] = database(dsn, pool, **changes)
    connections.configure_settings(connections.settings)
    return connections.create_connection(alias)


@pytest.mark.project(tables=False)
def test_absent_true_and_an_empty_dict_are_the_defaults(project: Project) -> None:
    pools = [_wrapper(project.dsn, pool).pool for pool in (None, True, {})]
    for pool in pools:
        assert (pool.name, pool.min_size, pool.max_size, pool.timeout) == ("made", 0, 10, 10.0)


@pytest.mark.project(tables=False)
def test_false_is_plain_django(project: Project) -> None:
    wrapper = _wrapper(project.dsn, pool=False, OPTIONS={"pool": False})
    wrapper.settings_dict.update(database(project.dsn, pool=False))
    wrapper.ensure_connection()
    assert wrapper.pool is None
    raw = wrapper.connection
    wrapper.close()
    assert raw.closed
    wrapper.close_pool()  # exists all the same


@pytest.mark.project(tables=False)
def test_the_dict_is_handed_to_the_pool(project: Project) -> None:
    options = {"min_size": 1, "max_size": 3, "timeout": 2.5, "max_waiting": 7, "reuse": "fifo"}
    pool = _wrapper(project.dsn, options).pool
    assert (pool.min_size, pool.max_size, pool.timeout, pool.max_waiting) == (1, 3, 2.5, 7)


@pytest.mark.project(tables=False)
def test_psycopg_pools_keys_do_no_harm(project: Project) -> None:
    given = {"num_workers": 3, "open": False, "max_size": 2, "reconnect_timeout": 60}
    pool = _wrapper(project.dsn, given).pool
    assert (pool.max_size, pool.closed, pool.reconnect_timeout) == (2, False, 60)


@pytest.mark.project(tables=False)
def test_each_option_of_psycopg_pool_works_or_is_said_to_be_something_else(
    project: Project, recwarn: pytest.WarningsRecorder
) -> None:
    from dbpool_django.checks import check_alias

    works: dict[str, Any] = {"min_size": 1, "max_size": 2, "timeout": 30.0, "max_waiting": 5}
    works |= {"max_lifetime": 900.0, "max_idle": 60.0, "name": "shop", "check": _nothing}
    works |= {"configure": _nothing, "reset": _nothing}
    works |= {"reconnect_timeout": 60.0, "reconnect_failed": _nothing}
    elsewhere = {
        "conninfo": "NAME",
        "kwargs": 'beside "pool"',
        "connection_class": "get_new_connection()",
        "close_returns": "close()",
    }
    told = {}
    for name in _options_of_psycopg_pool():
        given = {name: works.get(name, True)}
        wrapper = _wrapper(project.dsn, given)
        told[name] = check_alias("default", wrapper.settings_dict)
    for name, messages in told.items():
        ids = [message.id.removeprefix("dbpool_django.") for message in messages]
        if name in works:
            assert ids == [], name
        elif name in elsewhere:
            assert ids == ["E001"], name
            assert f"unknown pool option {name!r}: here it is " in messages[0].msg
            assert elsewhere[name] in messages[0].msg
        else:
            assert name in ("num_workers", "open")
            assert ids == ["W005"]
            assert messages[0].msg.startswith(name)
    assert {*works, *elsewhere, "num_workers", "open"} == {*told}


def _options_of_psycopg_pool() -> list[str]:
    """Return what its constructor takes: as of 3.3, or as it is where it is installed."""
    try:
        from psycopg_pool import ConnectionPool
    except ImportError:
        return [
            *("conninfo", "connection_class", "kwargs", "min_size", "max_size", "open"),
            *("configure", "check", "reset", "name", "close_returns", "timeout", "max_waiting"),
            *("max_lifetime", "max_idle", "reconnect_timeout", "reconnect_failed", "num_workers"),
        ]
    return [*inspect.signature(ConnectionPool).parameters]


def _nothing(about: Any) -> None:
    """A callback."""


def _parameters(wrapper: Any) -> Any:
    """Return what the pool of a wrapper connects with."""
    asked: dict[str, Any] = {"settings": {}, "last_host": None, "primary": False}
    return wrapper.pool.driver.parameters("", {}, timeout=3.0, name="pool", **asked)


@pytest.mark.project(tables=False)
def test_a_longer_connect_timeout_of_the_project_wins(project: Project) -> None:
    wrapper = _wrapper(project.dsn, {"connect_timeout": 3.0})
    assert _parameters(wrapper).seconds == 3.0
    wrapper = _wrapper(project.dsn, OPTIONS={"pool": True, "connect_timeout": 9})
    assert _parameters(wrapper).seconds == 9.0


@pytest.mark.project(tables=False)
def test_pools_of_different_servers_have_different_addresses(project: Project) -> None:
    """Those of one server share the pace at which it is tried while it is down."""
    one, same = _wrapper(project.dsn), _wrapper(project.dsn)
    other = _wrapper(project.dsn)
    other.settings_dict["PORT"] = "1"
    addresses = [_parameters(w).address for w in (one, same, other)]
    assert addresses[0] == addresses[1] != addresses[2]


@pytest.mark.project(tables=False)
def test_conn_max_age_is_the_lifetime_and_pins_nothing(project: Project) -> None:
    wrapper = _wrapper(project.dsn, CONN_MAX_AGE=600, CONN_HEALTH_CHECKS=True)
    wrapper.ensure_connection()
    wrapper.close_if_unusable_or_obsolete()
    assert wrapper.connection is None
    assert wrapper.pool.max_lifetime == 600
    assert _wrapper(project.dsn, {"max_lifetime": 60}, CONN_MAX_AGE=600).pool.max_lifetime == 60
    for_ever = _wrapper(project.dsn, CONN_MAX_AGE=None)
    for_ever.ensure_connection()
    for_ever.close_if_unusable_or_obsolete()
    assert for_ever.connection is None


@pytest.mark.project(tables=False)
def test_every_checkout_looks_at_the_socket(project: Project) -> None:
    wrapper = _wrapper(project.dsn)
    for _ in range(2):
        wrapper.ensure_connection()
        with socket.socket(fileno=os.dup(wrapper.connection.fileno())) as link:
            wrapper.close()
            link.shutdown(socket.SHUT_RDWR)  # sooner than the pool's own validate_after
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
    wrapper.close()


@pytest.mark.project(tables=False)
def test_callbacks_may_be_dotted_paths(project: Project) -> None:
    from tests.web_django import callbacks

    names = ("configure", "check", "reset")
    wrapper = _wrapper(project.dsn, {name: f"{callbacks.__name__}.{name}" for name in names})
    for _ in range(2):
        wrapper.ensure_connection()
        wrapper.close()
    assert callbacks.seen == ["configure", "check", "reset", "check", "reset"]


@pytest.mark.project(tables=False)
@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"max_szie": 4}, "did you mean 'max_size'"),
        ({"relaese": "request"}, "did you mean 'release'"),
        ({"POOL_SIZE": 4}, "here it is max_size"),
        ({"PRE_PING": True}, 'here it is validate="ping"'),
        ({"release": "sometimes"}, "request or transaction"),
        ({"max_size": 0}, "max_size"),
        ({"max_size": "four"}, "max_size"),
        ({"min_size": 5, "max_size": 2}, "min_size=5"),
        ({"timeout": None}, "timeout"),
        ({"configure": "no.such.thing"}, "no.such.thing"),
        ({"reset": "sometimes"}, "sometimes"),
        ("yes", "True, False, None or a dict"),
        (0, "True, False, None or a dict"),
        (["max_size"], "True, False, None or a dict"),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_it(
    project: Project, pool: Any, said: str
) -> None:
    from django.core.exceptions import ImproperlyConfigured

    wrapper = _wrapper(project.dsn, pool, PASSWORD="hunter2")
    with pytest.raises(ImproperlyConfigured) as caught:
        wrapper.ensure_connection()
    text = str(caught.value)
    assert said in text
    assert 'DATABASES[\'made\']["OPTIONS"]["pool"]' in text
    assert "hunter2" not in text


@pytest.mark.project(tables=False)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"OPTIONS": {"sslmood": "hunter2"}}, "sslmood"),
        ({"PORT": "hunter2"}, "PORT"),
        ({"NAME": ""}, "NAME"),
        ({"OPTIONS": {"isolation_level": "hunter3"}}, "isolation level"),
    ],
)
def test_a_wrong_connection_parameter_is_told_at_once(
    project: Project, changes: Any, said: str
) -> None:
    from django.core.exceptions import ImproperlyConfigured

    wrapper = _wrapper(project.dsn, **changes)
    with pytest.raises(ImproperlyConfigured, match=said) as caught:
        wrapper.ensure_connection()
    assert "hunter2" not in str(caught.value)


@pytest.mark.project(tables=False)
def test_all_pools_are_there_before_any_connection_is(project: Project) -> None:
    from dbpool_django.pools import all_pools

    first = _wrapper(project.dsn, alias="first", pool={"max_size": 2})
    _wrapper(project.dsn, alias="plain", pool=False)
    _wrapper(project.dsn, alias="mirror", pool={"max_size": 2})
    pools = all_pools()
    assert list(pools) == ["default", "first", "mirror"]
    assert pools["first"] is first.pool is pools["mirror"]
    assert project.sessions("dbpool:first") == project.sessions() == 0


@pytest.mark.project(tables=False)
def test_a_renamed_database_is_another_pool(project: Project) -> None:
    from django.db import connection

    before = connection.pool
    settings = connection.settings_dict
    settings["NAME"] = "template1"
    assert connection.settings_dict is settings
    assert connection.pool is not before
    connection.ensure_connection()
    assert connection.connection.info.dbname == "template1"
    connection.close()
    connection.close_pool()


@pytest.mark.project(tables=False)
@pytest.mark.parametrize(
    "change",
    [
        {"USER": "another"},
        {"PASSWORD": "another"},
        {"HOST": "another"},
        {"PORT": "1"},
        {"CONN_MAX_AGE": 7},
        {"TIME_ZONE": "Asia/Tokyo"},
        {"OPTIONS": {"connect_timeout": 7}},
        {"OPTIONS": {"pool": {"max_size": 7}}},
    ],
    ids=str,
)
def test_whatever_tells_two_connections_apart_tells_two_pools_apart(
    project: Project, change: dict[str, Any]
) -> None:
    assert _wrapper(project.dsn).pool is _wrapper(project.dsn).pool
    assert _wrapper(project.dsn).pool is not _wrapper(project.dsn, **change).pool
    changed = _wrapper(project.dsn)  # the same after the first checkout
    changed.ensure_connection()
    before, raw = changed.pool, changed.connection
    changed.settings_dict.update(change)
    vars(changed).pop("timezone", None), vars(changed).pop("timezone_name", None)  # as Django does
    assert changed.pool is not before
    assert changed.connection is raw
    changed.close()
    inside.audit(before)


@pytest.mark.project(pool={"max_size": 2})
def test_another_time_zone_of_the_settings_closes_no_pool_in_use() -> None:
    from django.db import connection
    from django.test import override_settings

    def zone() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW TimeZone")
            return str(cursor.fetchone()[0])

    assert zone() == "UTC"
    before, raw = connection.pool, connection.connection
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        assert (zone(), connection.connection is raw) == ("Asia/Tokyo", True)
        connection.close()
        assert zone() == "Asia/Tokyo"
        connection.close()
    assert zone() == "UTC"
    assert connection.pool is before
    assert not before.closed
    connection.close()
    inside.audit(before)


@pytest.mark.project(pool={"max_size": 1})
def test_a_pool_is_looked_up_once_per_wrapper_not_at_each_checkout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from django.db import connection

    from dbpool_django import pools

    asked: list[Any] = []
    look_up = pools.supplier_for
    monkeypatch.setattr(pools, "supplier_for", lambda by: asked.append(by) or look_up(by))
    for _ in range(3):
        connection.ensure_connection()
        connection.close()
    assert len(asked) == 1


@pytest.mark.project(pool={"max_size": 1})
def test_close_pool_is_idempotent_and_the_next_query_makes_a_new_one(project: Project) -> None:
    from django.db import connection

    from tests.web_django.shelf.models import Book

    Book.objects.count()
    held = connection.pool
    for _ in range(3):
        connection.close_pool()
    assert held.closed
    assert Book.objects.count() == 0  # the connection in hand still works
    connection.close()  # and closes now, since nobody wants it back
    wait_until(lambda: project.sessions() == 0, message="the session has ended")
    assert Book.objects.count() == 0
    assert connection.pool is not held
    connection.close()
    assert connection.pool.get_stats()["pool_available"] == 1


@pytest.mark.project(pool={"max_size": 1})
def test_a_pool_that_somebody_has_closed_is_replaced() -> None:
    from django.db import connection

    from tests.web_django.shelf.models import Book

    held = connection.pool
    held.close()
    assert Book.objects.count() == 0
    assert connection.pool is not held
    connection.close()


@pytest.mark.project(tables=False)
def test_the_users_application_name_wins(project: Project) -> None:
    settings = database(project.dsn)
    settings["OPTIONS"]["application_name"] = "the shop"
    wrapper = _wrapper(project.dsn, OPTIONS=settings["OPTIONS"])
    wrapper.ensure_connection()
    assert wrapper.connection.info.parameter_status("application_name") == "the shop"
    wrapper.close()


@pytest.mark.project(tables=False)
def test_dead_paths_are_found_by_tcp_settings(project: Project) -> None:
    wrapper = _wrapper(project.dsn, {"connect_timeout": 7})
    wrapper.ensure_connection()
    info = wrapper.connection.info
    parameters = info.get_parameters() if DRIVER == "psycopg" else info.dsn_parameters
    assert parameters["connect_timeout"] == "7"
    assert parameters["keepalives_idle"] == "10"
    assert parameters["tcp_user_timeout"] == "10000"
    wrapper.close()
