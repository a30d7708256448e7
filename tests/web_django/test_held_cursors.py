"""A cursor WITH HOLD outlives its transaction, but not its loan (`reset="auto"`)."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest

from tests.support import inside

pytestmark = pytest.mark.filterwarnings("ignore:.*was deleted while still open")  # psycopg 3 tells

ONE = {"max_size": 1}
SERIES = "SELECT generate_series(1, 10)"


def _hold(raw: Any, name: str = "held", **options: Any) -> Any:
    """Return a cursor of the driver's own, made past Django, that has begun to read."""
    cursor = raw.cursor(name, **{"withhold": True, **options})
    cursor.execute(SERIES)
    assert cursor.fetchone() == (1,)
    return cursor


def _left_to_the_next() -> list[str]:
    """Return the names of the cursors that the next borrower of the same session finds."""
    from django.db import connection

    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_cursors WHERE is_holdable")
        found = [name for (name,) in cursor.fetchall()]
    connection.close()
    inside.audit(connection.pool)
    assert connection.pool.get_stats()["connections_num"] == 1
    return found


def _cleaned() -> list[Any]:
    """Return the list of the sessions that are cleaned from now on; none is any more."""
    from django.db import connection

    cleaned: list[Any] = []
    connection._dbpool_supplier().opener.discard_session = cleaned.append
    return cleaned


@pytest.mark.project(pool=ONE)
@pytest.mark.parametrize("end", ["dropped", "kept", "read to its end"])
@pytest.mark.parametrize("committed", [False, True], ids=["autocommit", "committed"])
def test_one_made_past_django_is_not_left_to_the_next_request(end: str, committed: bool) -> None:
    from django.db import connection, transaction

    connection.ensure_connection()
    raw = connection.connection
    if committed:
        with transaction.atomic():
            cursor = _hold(raw)
    else:
        cursor = _hold(raw)
    if end == "read to its end":
        assert len(cursor.fetchall()) == 9
    elif end == "dropped":
        del cursor
        gc.collect()
    del raw
    assert _left_to_the_next() == []


@pytest.mark.project(pool=ONE)
def test_one_that_is_made_to_hold_later_is_not_left_either() -> None:
    from django.db import connection

    connection.ensure_connection()
    if hasattr(connection.connection, "execute"):
        pytest.skip("psycopg 3's cannot be changed")
    cursor = connection.connection.cursor("held")
    cursor.withhold = True
    cursor.execute(SERIES)
    assert _left_to_the_next() == []


@pytest.mark.project(pool=ONE)
@pytest.mark.parametrize("how", ["django", "raw"])
def test_one_closed_in_a_failed_transaction_is_not_left_either(how: str) -> None:
    """Neither driver sends anything then, and both call their cursor closed."""
    from django.db import Error, connection, transaction

    connection.ensure_connection()
    if how == "raw":
        cursor = _hold(connection.connection)
    else:
        cursor = connection.chunked_cursor()
        cursor.execute(SERIES)
    with pytest.raises(Error, match="zero"), transaction.atomic(), contextlib.closing(cursor):
        connection.cursor().execute("SELECT 1 / 0")
    assert _left_to_the_next() == []


@pytest.mark.project(pool=ONE)
def test_one_still_open_in_a_failed_transaction_is_not_left_either() -> None:
    from django.db import Error, connection, transaction

    cursor = connection.chunked_cursor()
    cursor.execute(SERIES)
    transaction.atomic().__enter__()
    with pytest.raises(Error):
        connection.cursor().execute("SELECT 1 / 0")
    connection.close()
    connection.closed_in_transaction = connection.in_atomic_block = False  # as a new wrapper's
    connection.needs_rollback, connection.connection = False, None
    assert _left_to_the_next() == []
    del cursor


@pytest.mark.project(pool=ONE)
def test_those_that_are_closed_or_end_with_their_transaction_cost_no_cleaning() -> None:
    from django.db import connection, transaction

    connection.ensure_connection()
    cleaned = _cleaned()
    raw = connection.connection
    _hold(raw).close()
    with _hold(raw, "other"):
        pass
    again = _hold(raw, "again")
    again.execute(SERIES) if hasattr(raw, "execute") else None  # psycopg 3 opens it anew
    again.close()
    with transaction.atomic():
        _hold(raw, "short", withhold=False)
    del raw
    connection.close()
    assert cleaned == []


@pytest.mark.project(pool={**ONE, "release": "transaction"})
def test_one_made_past_django_keeps_its_session_until_the_requests_end() -> None:
    from django.db import connection

    connection.ensure_connection()
    cursor = _hold(connection.connection)
    with connection.cursor() as other:
        other.execute("SELECT 1")
        other.fetchone()
    assert connection.connection is not None
    assert cursor.fetchone() == (2,)
    assert _left_to_the_next() == []


@pytest.mark.project(pool={**ONE, "reset": "rollback"})
def test_rollback_leaves_them_to_their_users() -> None:
    from django.db import connection

    connection.ensure_connection()
    cursor = _hold(connection.connection)
    assert _left_to_the_next() == ["held"]
    del cursor
