"""The fence: what was handed out works like the driver's own, until the end, and never after."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions, extras, sql

from dbpool import TransactionAborted
from dbpool_flask import ConnectionReleased, FencedConnection, FencedCursor
from tests.support import inside
from tests.web_flask.conftest import MakeSite, Site


@pytest.fixture
def connection(site: Site) -> Iterator[FencedConnection]:
    with site.app.app_context():
        yield site.db.connection


def ended(site: Site) -> FencedConnection:
    """Return a connection whose context has ended."""
    with site.app.app_context():
        return site.db.connection


# -- while it lasts


def test_it_works_like_the_drivers(connection: FencedConnection) -> None:
    assert connection.status == extensions.STATUS_READY
    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
    assert connection.encoding == "UTF8"
    connection.autocommit = True
    assert connection.raw.autocommit is True
    with connection.cursor(cursor_factory=extras.RealDictCursor) as cursor:
        cursor.execute("SELECT 1 AS one, %(x)s AS two", {"x": 2})
        assert cursor.fetchone() == {"one": 1, "two": 2}
    with connection.cursor() as cursor:
        cursor.arraysize = 2
        cursor.execute("SELECT generate_series(1, 7)")
        assert cursor.rowcount == 7
        assert cursor.description[0].name == "generate_series"
        assert cursor.fetchone() == (1,)
        assert next(cursor) == (2,)
        assert cursor.fetchmany() == [(3,), (4,)]
        assert cursor.fetchmany(1) == [(5,)]
        assert list(cursor) == [(6,), (7,)]
        assert cursor.fetchall() == []
        assert cursor.mogrify("%s", ["a'b"]) == b"'a''b'"
        assert cursor.connection is connection
    assert cursor.closed


def test_the_drivers_own_helpers_take_it(site: Site) -> None:
    with site.app.app_context():
        with site.db.connection.cursor() as cursor:
            extras.execute_values(cursor, "INSERT INTO note (text) VALUES %s", [("a",), ("b",)])
            extras.execute_batch(cursor, "INSERT INTO note (text) VALUES (%s)", [("c",), ("d",)])
            cursor.execute(sql.SQL("SELECT {} FROM note").format(sql.Identifier("text")))
            assert [text for (text,) in cursor] == ["a", "b", "c", "d"]
            cursor.execute("DECLARE more CURSOR FOR SELECT 1")
        with site.db.connection.cursor(name="named") as cursor:
            cursor.execute("SELECT generate_series(1, 5000)")
            assert sum(n for (n,) in cursor) == 5000 * 5001 // 2


def test_raw_is_the_drivers_own_object(connection: FencedConnection) -> None:
    assert extensions.connection in type(connection.raw).__mro__[:2]
    assert extensions.cursor in type(connection.cursor().raw).__mro__[:3]
    extras.register_uuid(conn_or_curs=connection.raw)
    assert sql.Identifier("a").as_string(connection.raw) == '"a"'


def test_an_unknown_attribute_is_the_drivers_attribute_error(connection: FencedConnection) -> None:
    with pytest.raises(AttributeError, match=r"psycopg2.*no attribute 'quux'"):
        _ = connection.quux
    assert not hasattr(connection, "execute")  # which psycopg2's helpers tell cursors by
    assert {"cursor", "raw", "set_session"} <= set(dir(connection))
    assert {"execute", "copy_expert"} <= set(dir(connection.cursor()))


def test_it_can_neither_be_copied_nor_pickled(connection: FencedConnection) -> None:
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither be copied nor pickled"):
            way(connection)


def test_its_repr_shows_nothing_of_the_dsn(site: Site, connection: FencedConnection) -> None:
    shown = repr(connection) + repr(connection.cursor()) + repr(connection.set_session)
    assert "pool 'default'" in shown
    assert site.database.name not in shown


def test_a_with_block_on_it_commits_or_rolls_back_and_closes_nothing(site: Site) -> None:
    with site.app.app_context():
        with site.db.connection:
            site.write("kept")
        site.write("undone")
        with pytest.raises(psycopg2.Error), site.db.connection:
            site.write(None)  # type: ignore[arg-type]
        with site.db.connection as same:
            assert same is site.db.connection
    assert site.database.notes() == ["kept"]


def test_its_commit_never_rolls_back_silently(site: Site) -> None:
    with site.app.app_context():
        site.write("undone")
        with pytest.raises(psycopg2.Error):
            site.fail()
        with pytest.raises(TransactionAborted):
            site.db.connection.commit()


def test_its_close_rolls_back_and_the_connection_stays_the_pools(site: Site) -> None:
    with site.app.app_context():
        site.write("undone")
        site.db.connection.close()
        site.write("kept")
        site.db.connection.commit()
    assert site.database.notes() == ["kept"]
    assert site.pool.get_stats()["connections_num"] == 1


def test_ten_thousand_cursors_leave_nothing_behind(connection: FencedConnection) -> None:
    cursors = [weakref.ref(connection.cursor().raw) for _ in range(10_000)]
    gc.collect()
    assert not any(ref() for ref in cursors)
    assert inside.fenced_cursors(connection) < 100


# -- after the end

USES: dict[str, Callable[[FencedConnection], Any]] = {
    "cursor": lambda c: c.cursor(),
    "commit": lambda c: c.commit(),
    "rollback": lambda c: c.rollback(),
    "raw": lambda c: c.raw,
    "with": lambda c: c.__enter__(),
    "method": lambda c: c.set_session(readonly=True),
    "attribute": lambda c: c.autocommit,
    "assignment": lambda c: setattr(c, "autocommit", True),
    "deletion": lambda c: delattr(c, "autocommit"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_use_after_the_end_is_refused(site: Site, use: Callable[[FencedConnection], Any]) -> None:
    with pytest.raises(ConnectionReleased, match=r"read db\.connection again"):
        use(ended(site))


CURSOR_USES: dict[str, Callable[[FencedCursor], Any]] = {
    "execute": lambda c: c.execute("SELECT 1"),
    "executemany": lambda c: c.executemany("SELECT 1", []),
    "fetchone": lambda c: c.fetchone(),
    "fetchmany": lambda c: c.fetchmany(),
    "fetchall": lambda c: c.fetchall(),
    "iter": lambda c: list(c),
    "next": lambda c: next(c),
    "raw": lambda c: c.raw,
    "with": lambda c: c.__enter__(),
    "attribute": lambda c: c.rowcount,
    "method": lambda c: c.copy_expert("COPY note TO STDOUT", None),
    "assignment": lambda c: setattr(c, "arraysize", 2),
}


@pytest.mark.parametrize("use", CURSOR_USES.values(), ids=CURSOR_USES)
@pytest.mark.parametrize("server_side", [False, True])
def test_a_use_of_a_cursor_after_the_end_is_refused(
    site: Site, use: Callable[[FencedCursor], Any], server_side: bool
) -> None:
    with site.app.app_context():
        cursor = site.db.connection.cursor(**({"name": "x"} if server_side else {}))
        cursor.execute("SELECT generate_series(1, 3)")
    with pytest.raises(ConnectionReleased, match=r"read db\.connection again"):
        use(cursor)


def test_methods_and_iterators_that_were_kept_are_refused_too(site: Site) -> None:
    with site.app.app_context():
        connection = site.db.connection
        cursor = connection.cursor()
        cursor.execute("SELECT generate_series(1, 3)")
        rows = iter(cursor)
        assert next(rows) == (1,)
        kept = [
            connection.cursor,
            connection.set_session,
            connection.get_backend_pid,
            cursor.fetchone,
            cursor.mogrify,
            lambda: next(rows),
        ]
    for use in kept:
        with pytest.raises(ConnectionReleased):
            use()


@pytest.mark.parametrize("error", [None, KeyError()])
def test_a_block_of_the_drivers_that_is_left_after_the_end_does_nothing_any_more(
    make_site: MakeSite, error: Exception | None
) -> None:
    left = []

    class WithBlocks(extensions.connection):
        @contextmanager
        def block(self) -> Iterator[str]:
            try:
                yield "the block's own"
            finally:
                left.append(self)

    site = make_site(DBPOOL_OPTIONS={"kwargs": {"connection_factory": WithBlocks}})
    with site.app.app_context():
        with site.db.connection.block() as own:
            assert own == "the block's own"
        assert len(left) == 1
        block = site.db.connection.block()
        block.__enter__()
    if error is None:
        with pytest.raises(ConnectionReleased):
            block.__exit__(None, None, None)
    else:  # which says more
        assert not block.__exit__(type(error), error, None)
    assert len(left) == 1


def test_closing_after_the_end_is_harmless_and_closed_is_true(site: Site) -> None:
    with site.app.app_context():
        connection = site.db.connection
        cursor = connection.cursor()
        with cursor:
            pass
        assert connection.closed == 0
    for _ in range(2):
        connection.close()
        cursor.close()
    assert connection.closed is True
    assert cursor.closed is True
    assert "given back" in repr(connection) + repr(cursor)


def test_what_was_kept_never_touches_the_connection_that_serves_somebody_else(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1})
    with site.app.app_context():
        old = site.db.connection
        old_cursor = old.cursor()
        raw = old.raw
    with site.app.app_context():
        assert site.db.connection.raw is raw  # the same session, lent again
        site.write("kept")
        for use in (old.rollback, old.commit, old_cursor.fetchone, old.cursor):
            with pytest.raises(ConnectionReleased):
                use()
        old.close()
        old_cursor.close()
        site.db.commit()
    assert site.database.notes() == ["kept"]


def test_a_raw_cursor_that_was_kept_is_closed_at_the_end(site: Site) -> None:
    with site.app.app_context():
        raw = site.db.connection.cursor().raw
    with pytest.raises(psycopg2.InterfaceError, match="closed"):
        raw.execute("SELECT 1")


def test_a_cursor_that_would_survive_on_the_server_takes_its_session_along(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1})
    with site.app.app_context():
        cursor = site.db.connection.cursor(name="survivor", withhold=True)
        cursor.execute("SELECT generate_series(1, 5000)")
        cursor.fetchone()
        site.db.commit()
    with site.app.app_context(), site.db.connection.cursor() as look:
        look.execute("SELECT name FROM pg_cursors WHERE name = 'survivor'")
        assert look.fetchall() == []
