"""psycopg2 with a wait callback under Django: no connect hangs for ever."""

from __future__ import annotations

import pytest

from tests.support.black_hole import BlackHole
from tests.support.callers import PATIENCE
from tests.support.waiting import wait_until
from tests.web_django.project import DRIVER, Project


@pytest.mark.skipif(DRIVER != "psycopg2", reason="psycopg 3 has no wait callback")
@pytest.mark.project(pool={"connect_timeout": 0.2, "timeout": 0.05}, tables=False)
def test_a_server_that_accepts_and_stays_silent_holds_no_connect_for_ever(
    project: Project,
) -> None:
    from django.db import OperationalError, connection
    from psycopg2 import extensions, extras

    extensions.set_wait_callback(extras.wait_select)
    here = connection.settings_dict["PORT"], connection.settings_dict["HOST"]
    with BlackHole() as silent:
        connection.settings_dict.update(PORT=str(silent.port), HOST="127.0.0.1")
        pool = connection.pool
        with pytest.raises(OperationalError):
            connection.ensure_connection()
        wait_until(lambda: pool.get_stats().get("connections_errors", 0) > 0, PATIENCE)
    connection.settings_dict.update(PORT=here[0], HOST=here[1])
    connection.settings_dict["OPTIONS"]["pool"] = {"connect_timeout": 0.2}
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    pool.close(PATIENCE)
