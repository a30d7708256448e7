"""No error of a checkout, and no frame of ours or Django's behind it, holds the password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.callers import in_thread
from tests.support.secrets import leaks
from tests.support.sessions import role_with
from tests.support.waiting import PATIENCE
from tests.web_django.project import Project, database

SECRET = "sEcReT!9x"


def _wrapper(dsn: str, pool: object = None, **changes: Any) -> Any:
    from django.db import connections

    given = {"USER": role_with(dsn, SECRET), "PASSWORD": SECRET, **changes}
    connections.settings["made"] = database(dsn, pool, **given)
    connections.configure_settings(connections.settings)
    return connections.create_connection("made")


def failing(*_: Any) -> Any:
    raise KeyError("no such thing")


FAILS: dict[str, dict[str, Any]] = {
    "an unknown role": {"USER": "nobody_at_all"},
    "a wrong password": {"PASSWORD": f"{SECRET}-of-yesterday"},
    "an unknown database": {"NAME": "nothing_at_all"},
    "a dead port": {"HOST": "127.0.0.1", "PORT": "1"},
    "a name that does not resolve": {"HOST": "no-such-host.invalid"},
    "an unknown parameter": {"OPTIONS": {"sslmood": "on"}},
    "a wrong value": {"OPTIONS": {"sslmode": "requier"}},
    "a port that is none": {"PORT": SECRET},
    "no name": {"NAME": ""},
    "a wrong level": {"OPTIONS": {"isolation_level": SECRET}},
    "an address that is none": {"OPTIONS": {"hostaddr": f"app:{SECRET}@h"}},
    "a host that is a URL": {"HOST": f"app:{SECRET}@h"},
    "a wrong option": {"pool": {"max_size": -1}},
    "an option that is a URL": {"pool": {"name": f"postgresql://app:{SECRET}@db/shop"}},
    "a callback that is none": {"pool": {"check": f"postgresql://app:{SECRET}@db/shop"}},
    "a URL for the options": {"pool": f"postgresql://app:{SECRET}@db/shop"},
    "a callback that fails": {"pool": {"configure": failing}},
    "a password that is no text": {"PASSWORD": f"{SECRET}\udcff"},
    "a password with a NUL": {"PASSWORD": f"{SECRET}\0"},
    "a user that is no text": {"USER": "\udcff"},
}


@pytest.mark.project(tables=False)
def test_no_failed_checkout_gives_the_password_away(project: Project) -> None:
    """One process for all of them, since each of these tests has one."""
    from django.core.exceptions import ImproperlyConfigured
    from django.db import OperationalError

    found = {}
    for name, given in FAILS.items():
        changes = {"pool": {"timeout": 5}, **given}
        pool = changes.pop("pool")
        if isinstance(pool, dict):
            pool = {"timeout": 5, "down_wait": 0, **pool}
        if "OPTIONS" in changes:
            changes["OPTIONS"] = {**changes["OPTIONS"], "pool": pool}
        wrapper = _wrapper(project.dsn, pool, **changes)
        found[name] = _leaks(wrapper.ensure_connection, OperationalError, ImproperlyConfigured)
        found[name] += _leaks(lambda w=wrapper: w.cursor(), OperationalError, ImproperlyConfigured)
        wrapper.close_pool()
    assert {name: leaked for name, leaked in found.items() if leaked} == {}


@pytest.mark.project(tables=False)
def test_a_full_or_closed_pool_gives_nothing_away(project: Project) -> None:
    from django.db import OperationalError

    wrapper = _wrapper(project.dsn, {"max_size": 1, "timeout": 0.05})
    conn = wrapper.pool.getconn(PATIENCE)
    again = _wrapper(project.dsn, {"max_size": 1, "timeout": 0.05})
    assert _leaks(again.ensure_connection, OperationalError) == []
    assert _leaks(again.cursor, OperationalError) == []
    wrapper.pool.putconn(conn)
    wrapper.close_pool()


@pytest.mark.project(tables=False)
def test_a_class_of_the_projects_own_changes_nothing_of_it(project: Project) -> None:
    """Then Django's own method connects, with the parameters in a local variable."""
    from django.db import OperationalError

    from dbpool_django.backends.postgresql.base import DatabaseWrapper

    class Mine(DatabaseWrapper):
        def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
            return super().get_new_connection(conn_params)

    class Asking(DatabaseWrapper):
        def get_connection_params(self) -> dict[str, Any]:
            params = super().get_connection_params()
            if asked:
                raise KeyError("the vault is away")
            asked.append(True)
            return params

    asked: list[bool] = []
    for cls in (Mine, Asking):
        settings = _wrapper(project.dsn, {"timeout": 2}, HOST="127.0.0.1", PORT="1").settings_dict
        wrapper = cls(settings, "made")
        assert _leaks(wrapper.ensure_connection, OperationalError) == []
        wrapper.close_pool()


UNSENDABLE: dict[str, dict[str, Any]] = {
    "PASSWORD": {"PASSWORD": f"{SECRET}\udcff"},
    "NAME": {"NAME": "shop\0"},
    "USER": {"USER": "app\0host=elsewhere"},
    "hostaddr": {"OPTIONS": {"hostaddr": f"app:{SECRET}@h"}},
    "HOST": {"HOST": f"app:{SECRET}@h"},
    "PORT": {"PORT": SECRET},
}


@pytest.mark.project(tables=False)
def test_what_cannot_be_sent_is_refused_by_its_name(project: Project) -> None:
    from django.core.exceptions import ImproperlyConfigured

    for named, changes in UNSENDABLE.items():
        wrapper = _wrapper(project.dsn, **changes)
        with pytest.raises(ImproperlyConfigured, match=f'"{named}"') as caught:
            wrapper.ensure_connection()
        assert leaks(caught.value, SECRET) == []


def _leaks(call: Callable[[], object], *errors: type[Exception]) -> list[str]:
    """Return what the error of a call gives away; in a thread, so that no frame of a test is in."""
    error = in_thread(call).exception(60)
    assert isinstance(error, errors), repr(error)
    return leaks(error, SECRET)
