"""What a pool adds to a connect meets what the project has set; and is asked for once."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from tests.web_django.project import Project, database


def _wrapper(dsn: str, pool: dict[str, Any], base: Any = None, **options: Any) -> Any:
    from dbpool_django.backends.postgresql.base import DatabaseWrapper

    settings = database(dsn)
    settings["OPTIONS"] = {**settings["OPTIONS"], "pool": pool, **options}
    settings.update(TIME_ZONE=None, CONN_MAX_AGE=0, CONN_HEALTH_CHECKS=False, AUTOCOMMIT=True)
    settings.update(ATOMIC_REQUESTS=False, TEST={})
    # HOST and PORT win over their like in OPTIONS.
    settings.update({name.upper(): options[name] for name in ("host", "port") if name in options})
    return (base or DatabaseWrapper)(settings, "parameters")


def _shown(wrapper: Any, name: str) -> str:
    with wrapper.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        value: str = cursor.fetchone()[0]
        return value


@pytest.mark.project(tables=False)
def test_options_of_the_project_and_server_settings_of_the_pool_are_both_sent(
    project: Project,
) -> None:
    wrapper = _wrapper(project.dsn, {"statement_timeout": 5}, options="-c search_path=t1")
    assert _shown(wrapper, "search_path") == "t1"
    assert _shown(wrapper, "statement_timeout") == "5s"
    wrapper.close()
    wrapper.close_pool()


def _connects(wrapper: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list that what the driver is called with goes into."""
    seen: list[dict[str, Any]] = []
    connect = wrapper.Database.connect

    def noting(**parameters: Any) -> Any:
        seen.append(parameters)
        return connect(**parameters)

    monkeypatch.setattr(wrapper.Database, "connect", noting)
    return seen


@pytest.mark.project(tables=False)
def test_a_primary_is_looked_for_among_the_hosts_of_the_project(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parse_dsn(project.dsn)
    hosts = {"host": f"{given['host']},{given['host']}", "port": f"{given['port']},1"}
    wrapper = _wrapper(project.dsn, {"role": "primary"}, **hosts)
    seen = _connects(wrapper, monkeypatch)
    wrapper.ensure_connection()
    assert [each["target_session_attrs"] for each in seen] == ["read-write"]
    assert [each["host"] for each in seen] == [hosts["host"]]
    wrapper.close()
    wrapper.close_pool()


@pytest.mark.project(tables=False)
def test_the_host_that_served_last_is_tried_first(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parse_dsn(project.dsn)
    hosts = {"host": f"{given['host']},{given['host']}", "port": f"1,{given['port']}"}
    wrapper = _wrapper(project.dsn, {"max_size": 1}, **hosts)
    seen = _connects(wrapper, monkeypatch)
    for _ in range(2):
        wrapper.ensure_connection()
        wrapper.connection.close()
        wrapper.close()
    assert [each["port"] for each in seen] == [f"1,{given['port']}", f"{given['port']},1"]
    wrapper.close_pool()


@pytest.mark.project(tables=False)
def test_a_class_of_the_projects_own_is_asked_once_for_each_connect(project: Project) -> None:
    """It may fetch a token, or take a lease, which two connects must not share."""
    from dbpool_django.backends.postgresql.base import DatabaseWrapper

    asked: list[str] = []

    class Leasing(DatabaseWrapper):
        def get_connection_params(self) -> dict[str, Any]:
            params: dict[str, Any] = super().get_connection_params()
            asked.append(f"token {len(asked)}")
            return {**params, "application_name": asked[-1]}

    pool = {"max_size": 2, "statement_timeout": 5, "role": "primary"}
    one = _wrapper(project.dsn, pool, Leasing)
    assert one.pool is not None
    asked.clear()  # making the pool checks the settings
    two = Leasing(one.settings_dict, "parameters")
    used = sorted(_shown(wrapper, "application_name") for wrapper in (one, two))
    assert used == asked == ["token 0", "token 1"]
    for wrapper in (one, two):
        wrapper.close()
    one.close_pool()


@pytest.mark.project(tables=False)
def test_a_spare_connection_of_a_health_check_has_the_projects_parameters(
    project: Project,
) -> None:
    wrapper = _wrapper(project.dsn, {"max_size": 1}, options="-c search_path=t1")
    driver = wrapper.pool.driver
    asked: dict[str, Any] = {"settings": {"statement_timeout": 5}, "last_host": None}
    found = driver.parameters(
        "", {driver.name_option: "dbpool-health"}, primary=False, timeout=3.0, name="", **asked
    )
    conn = driver.connect("", found.kwargs, timeout=found.seconds, name="")
    with conn.cursor() as cursor:
        cursor.execute("SELECT current_setting('search_path'), current_setting('application_name')")
        assert cursor.fetchone() == ("t1", "dbpool-health")
    driver.close(conn)
    wrapper.close_pool()


@pytest.mark.project(tables=False)
def test_a_class_that_also_prepares_its_sessions_is_not_asked_at_each_request(
    project: Project,
) -> None:
    from dbpool_django.backends.postgresql.base import DatabaseWrapper

    asked: list[str] = []
    prepared: list[str] = []

    class Leasing(DatabaseWrapper):
        def get_connection_params(self) -> dict[str, Any]:
            asked.append("asked")
            params: dict[str, Any] = super().get_connection_params()
            return params

        def init_connection_state(self) -> None:
            super().init_connection_state()
            prepared.append(self.get_connection_params()["dbname"])

    wrapper = _wrapper(project.dsn, {"max_size": 1}, Leasing)
    assert wrapper.pool is not None
    wrapper.ensure_connection()
    wrapper.close()
    asked.clear()
    prepared.clear()
    for _ in range(3):
        wrapper.ensure_connection()
        wrapper.close()
    assert prepared == [wrapper.settings_dict["NAME"]] * 3
    assert len(asked) == len(prepared), "by init_connection_state() itself alone"
    wrapper.close_pool()
