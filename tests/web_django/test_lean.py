"""Taking a connection and querying do what Django's own methods do, with less around them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

_MADE = """
    savepoint_ids atomic_blocks in_atomic_block needs_rollback health_check_enabled
    closed_in_transaction errors_occurred health_check_done autocommit run_on_commit
    run_commit_hooks_on_set_autocommit_on isolation_level close_at
"""


def _state(connect: Any, autocommit: bool) -> dict[str, Any]:
    """Return what `connect(wrapper)` makes of a wrapper whose last connection came to a bad end."""
    from django.db import connection

    wrapper = connection.copy()
    wrapper.settings_dict["AUTOCOMMIT"] = autocommit
    spoilt = {name: True for name in vars(wrapper) if isinstance(vars(wrapper)[name], bool)}
    spoilt |= {"savepoint_ids": ["s1"], "atomic_blocks": [1], "run_on_commit": [1], "close_at": 1.0}
    spoilt |= {"health_check_done": False, "autocommit": not autocommit}
    # (a wrapper with hooks to run has set this one already)
    vars(wrapper).update(spoilt, run_commit_hooks_on_set_autocommit_on=False)
    assert wrapper.wrap_database_errors  # cached by whoever asks
    connect(wrapper)
    found = {
        name: value if isinstance(value, (bool, list)) else type(value)
        for name, value in vars(wrapper).items()
        if not name.startswith("_")
    }
    wrapper.close()
    return found


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.project(pool={"max_size": 2})
def test_taking_a_connection_leaves_the_wrapper_as_django_would(autocommit: bool) -> None:
    def as_django(wrapper: Any) -> None:
        wrapper._dbpool_connect_as_django(wrapper._dbpool_supplier())

    _state(as_django, autocommit)  # the server's version is checked once, by whoever is the first
    ours, djangos = (_state(how, autocommit) for how in (lambda w: w.connect(), as_django))
    assert {*_MADE.split()} <= {*ours}
    assert ours == djangos


@pytest.mark.project(pool={"max_size": 2})
def test_a_class_of_the_projects_own_has_its_part_in_taking_a_connection() -> None:
    from django.db import connection, connections

    asked: list[str] = []

    class Own(type(connections["default"])):  # type: ignore[misc]
        def get_connection_params(self) -> Any:
            asked.append("parameters")
            return super().get_connection_params()

    class Initial(Own):
        def init_connection_state(self) -> None:
            asked.append("state")
            super().init_connection_state()

    class New(Own):
        def get_new_connection(self, params: Any) -> Any:
            asked.append(f"new on {params['dbname']}")
            return super().get_new_connection(params)

    name = connection.settings_dict["NAME"]
    expected = {Own: [], Initial: ["state"], New: ["parameters", f"new on {name}"]}
    for own, wanted in expected.items():
        wrapper = own(connection.copy().settings_dict, "default")
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
        # Once to see that they are possible, and by the pool for the connection that it opens.
        assert asked.count("parameters") >= 2
        wrapper.close()
        asked.clear()
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert asked == wanted
        wrapper.close()
        assert wrapper.pool.get_stats()["pool_available"] == 1
        wrapper.close_pool()
        asked.clear()


@pytest.mark.project(pool={"max_size": 2})
def test_async_code_is_refused_as_by_django(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.core.exceptions import SynchronousOnlyOperation
    from django.db import connection

    async def call(method: Any) -> None:
        method()

    unsafe = ("connect", "ensure_connection", "cursor", "create_cursor", "close")
    for held in (False, True):
        if held:
            connection.ensure_connection()
        for name in unsafe:
            with pytest.raises(SynchronousOnlyOperation):
                asyncio.run(call(getattr(connection, name)))
        assert (connection.connection is not None) is held
    connection.close()
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    for name in ("ensure_connection", "cursor", "create_cursor", "close", "connect", "close"):
        asyncio.run(call(getattr(connection, name)))
    assert connection.pool.get_stats()["pool_available"] == 1


@pytest.mark.project(pool={"max_size": 2})
def test_errors_of_cursors_are_djangos() -> None:
    from django.db import DatabaseError, connection, transaction
    from django.db.transaction import TransactionManagementError

    with connection.cursor() as cursor:
        for fetch in (cursor.fetchone, cursor.fetchall, lambda: cursor.fetchmany(3)):
            with pytest.raises(DatabaseError) as caught:
                fetch()
            assert isinstance(caught.value.__cause__, connection.Database.Error)
        for arguments in (("SELECT nowhere",), ("SELECT %s::int", ["x"])):
            with pytest.raises(DatabaseError) as caught:
                cursor.execute(*arguments)
            assert isinstance(caught.value.__cause__, connection.Database.Error)
        assert connection.errors_occurred
        cursor.execute("SELECT 1 UNION SELECT 2 ORDER BY 1")
        assert (cursor.fetchone(), cursor.fetchmany(1), cursor.fetchall()) == ((1,), [(2,)], [])
    with transaction.atomic(), connection.cursor() as cursor:
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            cursor.execute("SELECT 1")
    connection.close()


@pytest.mark.project(pool={"max_size": 2})
def test_an_execute_of_somebody_elses_is_called() -> None:
    """Tools that watch queries replace that of Django's class, or add a wrapper."""
    from django.db import connection
    from django.db.backends import utils

    seen: list[str] = []
    execute = utils.CursorWrapper.execute

    def watching(self: Any, sql: Any, params: Any = None) -> Any:
        seen.append(f"class: {sql}")
        return execute(self, sql, params)

    def wrapping(execute: Any, sql: Any, *args: Any) -> Any:
        seen.append(f"wrapper: {sql}")
        return execute(sql, *args)

    utils.CursorWrapper.execute = watching  # type: ignore[method-assign]
    try:
        with connection.execute_wrapper(wrapping), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        utils.CursorWrapper.execute = execute  # type: ignore[method-assign]
        connection.close()
    assert seen == ["class: SELECT 1", "wrapper: SELECT 1"]


@pytest.mark.project(pool={"max_size": 2})
def test_what_a_tool_puts_in_the_place_of_djangos_methods_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pytest-django forbids queries by ensure_connection(), error trackers watch connect()."""
    from django.db import connection
    from django.db.backends.base.base import BaseDatabaseWrapper

    with connection.cursor() as cursor:  # the pool connects, in its own way
        cursor.execute("SELECT 1")
    connection.close()
    called: list[str] = []
    for name in ("ensure_connection", "connect"):
        monkeypatch.setattr(BaseDatabaseWrapper, name, _noting(called, name))
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert called[:2] == ["ensure_connection", "connect"]
    called.clear()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert called == ["ensure_connection"], "it is asked also while there is a connection"
    connection.close()


@pytest.mark.project(pool={"max_size": 2})
def test_a_tools_proxy_of_a_method_of_djangos_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracers put an object there that answers for the method, its code included."""
    from django.db import connection
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.postgresql.base import DatabaseWrapper

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    called: list[str] = []
    for owner, name in (
        (BaseDatabaseWrapper, "ensure_connection"),
        (BaseDatabaseWrapper, "connect"),
        (DatabaseWrapper, "create_cursor"),
    ):
        monkeypatch.setattr(owner, name, _Proxy(getattr(owner, name), called))
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    assert (called[:2], called[-1]) == (["ensure_connection", "connect"], "create_cursor")


@pytest.mark.project(pool={"max_size": 2})
def test_a_class_between_ours_and_djangos_has_its_part() -> None:
    from django.db import connection
    from django.db.backends.postgresql.base import DatabaseWrapper

    from dbpool_django._postgres import PooledPostgres

    called: list[str] = []
    names = ("ensure_connection", "create_cursor")

    class Between(DatabaseWrapper):  # type: ignore[misc]
        pass

    for name in names:
        setattr(Between, name, _noting(called, name))

    class Own(PooledPostgres, Between):
        pass

    wrapper = Own(connection.copy().settings_dict, "default")
    wrapper.ensure_connection()  # the pool connects, in its own way
    wrapper.close()
    called.clear()
    wrapper.cursor().close()
    assert called == [*names]
    wrapper.close()
    wrapper.close_pool()


class _Proxy:
    """What wrapt makes of a function: it shows all that is the function's, and is none."""

    def __init__(self, own: Any, called: list[str]) -> None:
        self._own = own
        self._called = called

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __get__(self, wrapper: Any, owner: Any = None) -> Any:
        return self if wrapper is None else _Proxy(self._own.__get__(wrapper, owner), self._called)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._called.append(self._own.__name__)
        return self._own(*args, **kwargs)


def _noting(called: list[str], name: str) -> Any:
    from django.db.backends.postgresql.base import DatabaseWrapper

    own = getattr(DatabaseWrapper, name)

    def method(self: Any, *args: Any) -> Any:
        called.append(name)
        return own(self, *args)

    return method
