"""What both PostgreSQL drivers promise besides the contract."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dbpool import CommitUnknown, ConnectionPool, TransactionAborted
from dbpool.drivers.base import ACTIVE, IDLE, INERROR, INTRANS, UNKNOWN
from testproject.postgres import PostgresServer
from tests.drivers.conftest import needs_psycopg, run
from tests.support import inside
from tests.support.callers import (
    PATIENCE,
    MakePool,
    expect_full_capacity,
    gave_up_until,
    in_thread,
)
from tests.support.servers import Postgres, count_sessions
from tests.support.sessions import last_query, one, run_sql, terminate
from tests.support.waiting import wait_until

SECRET = "sEcReT"
both = pytest.mark.parametrize("driver", ["psycopg2", pytest.param("psycopg", marks=needs_psycopg)])
pytestmark = both


@pytest.fixture
def pg_pool(driver: str, new_pool: MakePool, postgres: Postgres) -> MakePool:
    def make(**options: Any) -> ConnectionPool:
        return new_pool(postgres.dsn(), driver=driver, **{"max_size": 1, **options})

    return make


def pid_of(conn: Any) -> int:
    return int(conn.info.backend_pid)


def next_pid(pool: ConnectionPool) -> int:
    """Return the session that the next borrower gets; it must be clean."""
    with pool.connection() as conn:
        assert pool.driver.transaction_status(conn) == IDLE
        assert one(conn, "SELECT 'mine'") == "mine"
        return pid_of(conn)


# Returning


def test_an_idle_connection_is_kept_without_a_round_trip(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool()
    conn = pool.getconn()
    conn.autocommit = True
    run(conn, "SELECT 'the last word'")
    conn.autocommit = False
    pool.putconn(conn)
    with pool.connection() as again:
        assert again is conn
    assert last_query(postgres, pid_of(conn)) == "SELECT 'the last word'"


def test_the_server_is_told_nothing_when_attributes_are_put_back(
    pg_pool: MakePool, postgres: Postgres, driver: str
) -> None:
    pool = pg_pool()
    conn = pool.getconn()
    run(conn, "SELECT 1")
    conn.rollback()
    conn.isolation_level = 3
    setattr(conn, "readonly" if driver == "psycopg2" else "read_only", True)
    conn.deferrable = True
    pool.putconn(conn)
    assert last_query(postgres, pid_of(conn)) == "ROLLBACK"


def test_the_five_states_are_told_apart(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool()
    status = pool.driver.transaction_status
    conn = pool.getconn()
    assert status(conn) == IDLE
    run(conn, "SELECT 1")
    assert status(conn) == INTRANS
    with pytest.raises(pool.driver.OperationalError.__mro__[1]):
        run(conn, "SELECT 1/0")
    assert status(conn) == INERROR
    conn.rollback()
    query = in_thread(run, conn, "SELECT pg_sleep(60)")
    wait_until(lambda: "pg_sleep" in last_query(postgres, pid_of(conn)), PATIENCE)
    assert status(conn) == ACTIVE
    terminate(postgres, pid_of(conn))
    with pytest.raises(pool.driver.OperationalError) as caught:
        query.result(PATIENCE)
    assert pool.driver.is_disconnect(conn, caught.value)
    assert status(conn) == UNKNOWN
    pool.putconn(conn)
    next_pid(pool)


def test_a_query_in_flight_costs_the_connection(pg_pool: MakePool, postgres: Postgres) -> None:
    pool = pg_pool()
    conn = pool.getconn()
    pid = pid_of(conn)
    query = in_thread(run, conn, "SELECT pg_sleep(60)")
    wait_until(lambda: "pg_sleep" in last_query(postgres, pid), PATIENCE)
    returning = in_thread(pool.putconn, conn)
    if pool.driver.name == "psycopg2":  # whose close() waits for the query: end it
        terminate(postgres, pid)
    returning.result(PATIENCE)
    with pytest.raises(pool.driver.OperationalError.__mro__[2]):
        query.result(PATIENCE)
    assert next_pid(pool) != pid
    expect_full_capacity(pool)


def test_a_failed_transaction_is_rolled_back_and_never_committed(pg_pool: MakePool) -> None:
    pool = pg_pool()
    error = pool.driver.OperationalError.__mro__[1]
    pid = next_pid(pool)

    def fail() -> None:
        with pool.connection() as conn, pytest.raises(error):
            run(conn, "SELECT 1/0")

    with pytest.raises(TransactionAborted):
        fail()
    assert next_pid(pool) == pid


DEADLY = """
CREATE TABLE IF NOT EXISTS deadly (id int);
CREATE OR REPLACE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
DROP TRIGGER IF EXISTS die ON deadly;
CREATE CONSTRAINT TRIGGER die AFTER INSERT ON deadly INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION die();
"""  # whose session ends in the midst of its COMMIT


def test_a_lost_link_during_the_commit_is_told_as_unknown(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    run_sql(postgres, DEADLY)
    pool = pg_pool()

    def lose() -> None:
        with pool.connection() as conn:
            run(conn, "INSERT INTO deadly VALUES (1)")

    with pytest.raises(CommitUnknown) as caught:
        lose()
    assert isinstance(caught.value, pool.driver.OperationalError)
    next_pid(pool)


def test_a_session_that_had_ended_before_the_commit_has_committed_nothing(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    """The driver takes it for open: only its socket tells."""
    pool = pg_pool()

    def lose() -> None:
        with pool.connection() as conn:
            run(conn, "SELECT 1")
            terminate(postgres, pid_of(conn))
            poll = inside.poller(conn.fileno())
            wait_until(lambda: inside.look(poll) == inside.DEAD, message="the socket tells")

    with pytest.raises(TransactionAborted, match="lost before the commit") as caught:
        lose()
    assert isinstance(caught.value, pool.driver.OperationalError)
    # In the driver's words; psycopg2 has only a plain DatabaseError for it over a unix socket.
    assert isinstance(caught.value.__cause__, pool.driver.OperationalError.__mro__[1])
    next_pid(pool)


def test_a_connection_that_was_closed_before_the_commit_has_committed_nothing(
    pg_pool: MakePool,
) -> None:
    pool = pg_pool()

    def close() -> None:
        with pool.connection() as conn:
            run(conn, "SELECT 1")
            conn.close()

    with pytest.raises(TransactionAborted, match="closed inside its block") as caught:
        close()
    assert isinstance(caught.value, pool.driver.OperationalError)


def test_a_two_phase_transaction_costs_the_connection(pg_pool: MakePool) -> None:
    pool = pg_pool()
    conn = pool.getconn()
    pid = pid_of(conn)
    conn.tpc_begin(conn.xid(1, "a", "b"))
    pool.putconn(conn)
    assert next_pid(pool) != pid


@pytest.fixture(scope="module")
def two_phase_postgres() -> Iterator[PostgresServer]:
    with PostgresServer(conf={"max_prepared_transactions": 5}) as server:
        yield server


def test_a_prepared_two_phase_transaction_costs_the_connection(
    driver: str, two_phase_postgres: PostgresServer, new_pool: MakePool
) -> None:
    """The session is idle then, but the driver refuses to work on it."""
    pool = new_pool(two_phase_postgres.dsn(), driver=driver, max_size=1)
    conn = pool.getconn()
    pid = pid_of(conn)
    conn.tpc_begin(conn.xid(1, f"{driver} a", "b"))
    run(conn, "SELECT 1")
    conn.tpc_prepare()
    assert pool.driver.transaction_status(conn) == IDLE
    pool.putconn(conn)
    assert next_pid(pool) != pid


def with_hold(conn: Any) -> Any:
    cursor = conn.cursor("kept", withhold=True)
    cursor.execute("SELECT generate_series(1, 3)")
    conn.commit()
    return cursor


OPEN_CURSORS = "SELECT name FROM pg_cursors WHERE is_holdable"


@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
def test_a_cursor_with_hold_is_session_state_which_reset_discard_ends(pg_pool: MakePool) -> None:
    for reset, left in ((None, "kept"), ("discard", None)):
        pool = pg_pool(reset=reset)
        conn = pool.getconn()
        cursor = with_hold(conn)
        assert cursor.fetchone() == (1,)
        conn.commit()
        pool.putconn(conn)
        with pool.connection() as other:
            assert other is conn
            names = [name for (name,) in run(other, OPEN_CURSORS)]
        assert names == ([left] if left else [])
        del cursor


# Deadlines on a server that does not answer


@pytest.fixture
def frozen(
    driver: str, breakable_postgres: PostgresServer, new_pool: MakePool
) -> Iterator[Callable[[Callable[[Any], object]], tuple[ConnectionPool, Any]]]:
    """Return a pool and a connection of it, prepared as asked, of a server that has stopped."""

    def make(prepare: Callable[[Any], object]) -> tuple[ConnectionPool, Any]:
        dsn = breakable_postgres.dsn()
        pool = new_pool(dsn, driver=driver, max_size=1, ping_timeout=0.2)
        conn = pool.getconn()
        prepare(conn)
        breakable_postgres.freeze()
        return pool, conn

    yield make
    breakable_postgres.thaw()


@pytest.mark.parametrize("operation", ["ping", "probe", "rollback", "discard_session", "commit"])
def test_each_operation_ends_at_its_deadline(operation: str, frozen: Any) -> None:
    pool, conn = frozen(
        lambda conn: run(conn, "SELECT 1") if operation in ("rollback", "commit") else None
    )

    def bounded() -> None:
        with inside.TimeLimit(pool.driver, conn, 0.2):
            getattr(pool.driver, operation)(conn)

    with pytest.raises(pool.driver.OperationalError.__mro__[2]) as caught:
        in_thread(bounded).result(PATIENCE)
    assert pool.driver.is_disconnect(conn, caught.value)
    assert pool.driver.transaction_status(conn) == UNKNOWN
    in_thread(pool.driver.close, conn).result(PATIENCE)
    in_thread(pool.putconn, conn).result(PATIENCE)


def test_close_does_not_wait_for_a_server_that_has_stopped(frozen: Any) -> None:
    pool, conn = frozen(lambda conn: run(conn, "SELECT 1"))
    in_thread(pool.putconn, conn, True).result(PATIENCE)
    assert conn.closed


# Connecting


def test_a_url_names_the_driver(driver: str, postgres: Postgres, new_pool: MakePool) -> None:
    for scheme in (f"postgresql+{driver}", f"POSTGRESQL+{driver.upper()}"):
        url = postgres.url().replace("postgresql", scheme, 1)
        pool = new_pool(url)
        assert pool.driver.name == driver
        assert next_pid(pool)


def test_an_encoded_password_serves(
    driver: str, scram_postgres: PostgresServer, new_pool: MakePool
) -> None:
    for conninfo in (scram_postgres.url(), scram_postgres.dsn(), scram_postgres.url):
        assert next_pid(new_pool(conninfo, driver=driver))


def test_a_session_has_the_pools_name_and_limits_of_its_own(
    pg_pool: MakePool, postgres: Postgres
) -> None:
    pool = pg_pool(name="it's the shop", connect_timeout=6.5)
    wanted = {
        "connect_timeout": "7",
        "keepalives_idle": "10",
        "keepalives_interval": "3",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
    with pool.connection() as conn:
        assert one(conn, "SHOW application_name") == "dbpool:it's the shop"
        info = conn.info
        found = info.dsn_parameters if hasattr(info, "dsn_parameters") else info.get_parameters()
        assert {key: found.get(key) for key in wanted} == wanted
    assert count_sessions(postgres, "dbpool:it's the shop") == 1


def test_what_the_user_set_wins(driver: str, postgres: Postgres, new_pool: MakePool) -> None:
    own = {"connect_timeout": "9", "keepalives_idle": "33", "application_name": "mine"}
    for pool in (
        new_pool(postgres.dsn(**own), driver=driver),
        new_pool(postgres.url(**own), driver=driver),
        new_pool(postgres.dsn(), driver=driver, kwargs=own),
    ):
        with pool.connection() as conn:
            assert one(conn, "SHOW application_name") == "mine"
            info = conn.info
            found = (
                info.dsn_parameters if hasattr(info, "dsn_parameters") else info.get_parameters()
            )
            assert {key: found.get(key) for key in own} == own


def failure_of(conninfo: str, driver: str, **options: Any) -> tuple[str, BaseException]:
    """Return the word and the error of a connect that fails."""
    with ConnectionPool(conninfo, driver=driver, open=False, **options) as pool:
        gave_up_until(lambda: inside.outage(pool).failure is not None, pool)
        failure = inside.outage(pool).failure
        assert failure
        return failure.reason, failure.error


def test_why_a_connect_failed_is_told_by_a_word(
    driver: str, postgres: Postgres, scram_postgres: PostgresServer
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        refused = failure_of(f"host=127.0.0.1 port={port} user=me", driver)
    assert refused[0] == "connect_refused"
    assert failure_of("host=/no/such/place user=me", driver)[0] == "connect_refused"
    assert failure_of("host=nobody.invalid user=me", driver)[0] == "dns"
    assert failure_of(postgres.dsn(dbname="missing"), driver)[0] == "unknown_database"
    assert failure_of(postgres.dsn(user="nobody"), driver)[0] == "auth"
    assert failure_of(scram_postgres.dsn(password="wrong"), driver)[0] == "auth"


def test_a_server_that_never_answers_is_told_by_its_word(driver: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        reason, _ = failure_of(f"host=127.0.0.1 port={port} user=me", driver, connect_timeout=1)
    assert reason == "connect_timeout"


@pytest.mark.parametrize(
    "template",
    [
        "postgresql://user:{}@127.0.0.1:1/db",
        "postgresql://user:{}@127.0.0.1:1,127.0.0.1:2/db?sslmode=disable",
        "host=127.0.0.1 port=1 user=user password={}",
        "host=/nowhere/at/all password={}",
        "postgresql://user:{}@127.0.0.1:1/db?sslmode=nonsense",
        "service=nobody password={}",
        "postgresql://user:{}\udcff@h/db",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("how", ["string", "kwargs"])
def test_no_password_in_an_error_of_connecting(template: str, how: str, driver: str) -> None:
    kwargs = {"password": SECRET} if how == "kwargs" else None
    text = template.format("x" if how == "kwargs" else SECRET)
    try:
        _, error = failure_of(text, driver, kwargs=kwargs)
    except ValueError as refused:
        error = refused
    seen = 0
    link: BaseException | None = error
    while link is not None:
        seen += 1
        for text in (str(link), repr(link), repr(vars(link))):
            assert SECRET not in text
        link = link.__cause__ or link.__context__
    assert seen


@pytest.mark.parametrize(
    "template",
    [
        "postgresql://u:{}@h:port/db",
        "postgresql://u:{}@[::1/db",
        "postgresql://u:{}%zz@h/db",
        "postgresql://u:{}@h/db?nonsense=1",
        "postgresql://u:1/{}@h/db",
        "postgresql://u:1@{}@h/db",
        "host=h password={} secret user=u",
        "host=h pasword={}",
        "host=u:{}@h dbname=db",
        "{}",
        "sqlite3:{}",
    ],
)
def test_a_malformed_conninfo_is_refused_without_a_word_of_it(template: str, driver: str) -> None:
    named = "postgresql://user:password@host:port/dbname|has an option .*'(nonsense|pasword)'"
    with pytest.raises(ValueError, match=named) as caught:
        ConnectionPool(template.format(SECRET), driver=driver)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None
