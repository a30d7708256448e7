"""A psycopg2 connection is read only where somebody has touched it, and no touch goes unseen."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from psycopg2 import extensions, extras, sql
from psycopg2.extensions import connection

from dbpool import ConnectionPool
from dbpool.drivers import psycopg2 as driver_module
from tests.drivers.conftest import run
from tests.support import inside
from tests.support.callers import MakePool
from tests.support.servers import Postgres

# All that psycopg2's connection has. A name that is in neither list comes with a new version:
# see whether it can change what `Psycopg2Driver.attributes` reads.
CAN_CHANGE = {
    "autocommit", "cursor_factory", "deferrable", "isolation_level", "notices", "readonly",
    "reset", "set_client_encoding", "set_isolation_level", "set_session",
}  # fmt: skip
CANNOT = {
    "DataError", "DatabaseError", "Error", "IntegrityError", "InterfaceError", "InternalError",
    "NotSupportedError", "OperationalError", "ProgrammingError", "Warning",
    "async", "async_", "binary_types", "cancel", "close", "closed", "commit", "cursor", "dsn",
    "encoding", "fileno", "get_backend_pid", "get_dsn_parameters", "get_native_connection",
    "get_parameter_status", "get_transaction_status", "info", "isexecuting", "lobject",
    "notifies", "pgconn_ptr", "poll", "protocol_version", "rollback", "server_version",
    "status", "string_types", "tpc_begin", "tpc_commit", "tpc_prepare",
    "tpc_recover", "tpc_rollback", "xid",
}  # fmt: skip


@pytest.fixture
def pool(new_pool: MakePool, postgres: Postgres) -> ConnectionPool:
    return new_pool(postgres.dsn(), driver="psycopg2", max_size=1)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note each time that the attributes of a returned connection are read."""
    found: list[Any] = []
    unchanged = driver_module.unchanged

    def counted(conn: Any, attributes: Any, marks: Any) -> bool:
        found.append(set(marks))
        return unchanged(conn, attributes, marks)

    monkeypatch.setattr(driver_module, "unchanged", counted)
    return found


def plain(conn: Any) -> tuple[Any, ...]:
    names = (
        "autocommit",
        "isolation_level",
        "readonly",
        "deferrable",
        "cursor_factory",
        "encoding",
    )
    return (*(getattr(conn, name) for name in names), id(conn.notices))


def test_nothing_of_psycopg2s_is_overlooked() -> None:
    tracked = inside.tracked_connection()
    public = {name for name in dir(connection) if not name.startswith("_")}
    assert public == CAN_CHANGE | CANNOT
    for name in CAN_CHANGE:
        method = callable(getattr(connection, name))
        assert not method or getattr(tracked, name) is not getattr(connection, name)
    ours = set(vars(tracked)) - {"__module__", "__doc__", "__annotations__"}
    public = {name for name in ours if not name.startswith("_")}
    assert public < CAN_CHANGE | {"close", "cursor", "lobject"}, "it adds something"


CHANGES: dict[str, Callable[[Any], object]] = {
    "autocommit": lambda conn: setattr(conn, "autocommit", True),
    "isolation_level": lambda conn: setattr(conn, "isolation_level", 3),
    "set_client_encoding": lambda conn: conn.set_client_encoding("LATIN1"),
    "readonly": lambda conn: setattr(conn, "readonly", True),
    "deferrable": lambda conn: setattr(conn, "deferrable", True),
    "cursor_factory": lambda conn: setattr(conn, "cursor_factory", extras.DictCursor),
    "notices": lambda conn: setattr(conn, "notices", deque()),
    "set_session, by name": lambda conn: conn.set_session(readonly=True),
    "set_session, by position": lambda conn: conn.set_session("SERIALIZABLE", None, True),
    "set_session, autocommit": lambda conn: conn.set_session(autocommit=True),
    "set_isolation_level": lambda conn: conn.set_isolation_level(3),
    "set_isolation_level, autocommit": lambda conn: conn.set_isolation_level(0),
    "a method that was kept": lambda conn: conn.set_session.__call__(deferrable=True),
    "the class's method": lambda conn: type(conn).set_session(conn, readonly=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_way_to_change_a_setting_is_seen_and_put_back(
    change: Callable[[Any], object], pool: ConnectionPool, reads: list[Any]
) -> None:
    conn = pool.getconn()
    before = plain(conn)
    pool.putconn(conn)
    del reads[:]
    assert pool.getconn() is conn
    change(conn)
    assert plain(conn) != before, "nothing was changed"
    pool.putconn(conn)
    assert reads, "not looked at"
    assert pool.getconn() is conn
    assert plain(conn) == before
    pool.putconn(conn)
    assert pool.get_stats()["connections_num"] == 1


def test_reset_of_a_configured_connection_is_seen_and_put_back(
    new_pool: MakePool, postgres: Postgres
) -> None:
    def configure(conn: Any) -> None:
        conn.set_session(isolation_level=3, readonly=True, deferrable=True, autocommit=True)

    pool = new_pool(postgres.dsn(), driver="psycopg2", max_size=1, configure=configure)
    conn = pool.getconn()
    before = plain(conn)
    for _ in range(2):
        conn.reset()
        pool.putconn(conn)
        assert pool.getconn() is conn
        assert plain(conn) == before
    pool.putconn(conn)


def test_what_nobody_has_touched_is_not_read(pool: ConnectionPool, reads: list[Any]) -> None:
    with pool.connection():
        pass
    del reads[:]  # a new one is read
    for _ in range(3):
        with pool.connection() as conn:
            run(conn, "SELECT 1")
    assert reads == []
    with pool.connection() as conn:
        conn.autocommit = True
        conn.autocommit = False
    assert reads == [{"autocommit"}]
    with pool.connection():
        pass
    assert len(reads) == 1, "what turned out to be unchanged is not read again"


def test_a_class_of_the_users_own_is_what_is_lent_and_is_read_each_time(
    new_pool: MakePool, postgres: Postgres, reads: list[Any]
) -> None:
    class Mine(connection):
        def set_session(self, *args: Any, **kwargs: Any) -> None:
            super().set_session(*args, **kwargs)

    pool = new_pool(
        postgres.dsn(), driver="psycopg2", max_size=1, kwargs={"connection_factory": Mine}
    )
    for _ in range(2):
        with pool.connection() as conn:
            assert isinstance(conn, Mine)
            assert type(conn).__mro__[1] is Mine
            assert type(conn).__qualname__ == Mine.__qualname__
            assert conn.readonly is None
            conn.set_session(readonly=True)
    with pool.connection() as conn:
        conn.notices = []
    before = len(reads)
    with pool.connection():
        pass
    assert len(reads) > before


def test_it_is_psycopg2s_own_to_all_who_look(pool: ConnectionPool) -> None:
    """In C psycopg2 takes a subclass for its connection, and no stand-in."""
    with pool.connection() as conn:
        assert isinstance(conn, connection)
        assert type(conn).__mro__[1:] == connection.__mro__
        assert not hasattr(conn, "__dict__")
        assert repr(conn).startswith("<connection object at 0x")
        with pytest.raises(AttributeError):
            conn.anything = 1
        with pytest.raises(ValueError, match="isolation_level"):
            conn.isolation_level = "nonsense"
        extensions.register_type(extensions.UNICODE, conn)
        extras.register_uuid(conn_or_curs=conn)
        extras.register_default_jsonb(conn_or_curs=conn)
        assert sql.Identifier('a"b').as_string(conn) == '"a""b"'
        assert extensions.quote_ident("a", conn) == '"a"'
        adapted: Any = extensions.adapt("é")
        adapted.prepare(conn)
        assert adapted.getquoted() == b"'\xc3\xa9'"
        key = uuid.uuid4()
        with conn.cursor(cursor_factory=extras.RealDictCursor) as cursor:
            cursor.execute("CREATE TYPE pair AS (a int, b int)")
            extras.register_composite("pair", conn)
            extras.execute_values(cursor, "SELECT * FROM (VALUES %s) AS t (a)", [(1,), (2,)])
            assert [row["a"] for row in cursor] == [1, 2]
            cursor.execute("SELECT %s::uuid AS key, '(1,2)'::pair AS pair", [key])
            assert dict(cursor.fetchone()) == {"key": key, "pair": (1, 2)}
            assert cursor.connection is conn
        with conn.cursor(name="named") as cursor:
            cursor.execute("SELECT generate_series(1, 3)")
            assert [n for (n,) in cursor] == [1, 2, 3]
        assert conn.info.dbname == conn.get_dsn_parameters()["dbname"]
        assert conn.lobject(0, "w").oid
        conn.rollback()
        with conn, conn.cursor() as cursor:
            cursor.execute("SELECT 1")


@pytest.mark.parametrize("place", [list, deque])
def test_what_one_borrower_was_notified_of_goes_with_its_listen(
    place: Callable[[], Any], new_pool: MakePool, postgres: Postgres
) -> None:
    pool = new_pool(postgres.dsn(), driver="psycopg2", max_size=1, reset="discard")
    conn = pool.getconn()
    conn.autocommit = True
    conn.notifies = heard = place()
    run(conn, "LISTEN to_one")
    run(conn, "NOTIFY to_one, 'for the first alone'")
    assert [notify.payload for notify in heard] == ["for the first alone"]
    pool.putconn(conn)
    assert pool.getconn() is conn
    assert conn.notifies == []
    pool.putconn(conn)
