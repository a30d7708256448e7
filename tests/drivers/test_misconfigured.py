"""A mistake in the configuration: refused when the pool is made, or told at the first connect.

In one sentence, with the name of the option, and never retried for as long as a caller waits.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dbpool import ConnectFailed, ConnectionPool, Misconfigured, PoolDown
from testproject.postgres import PostgresServer, PostgresUnavailable
from tests.drivers.conftest import needs_psycopg
from tests.support.callers import MakePool, in_thread
from tests.support.german import german_postgres
from tests.support.secrets import leaks
from tests.support.servers import Postgres
from tests.support.sessions import role_with
from tests.support.waiting import wait_until

SECRET = "sEcReT!9x"
LONG = 60.0  # seconds; nobody waits for as long as that
NOWHERE = "host=127.0.0.1 port=1"


@pytest.fixture(params=["psycopg2", pytest.param("psycopg", marks=needs_psycopg)])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tls_address() -> Iterator[str]:
    with PostgresServer(ssl=True) as server:
        yield server.dsn()


@pytest.fixture(scope="module")
def german() -> Iterator[PostgresServer]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(german_postgres())
        except PostgresUnavailable as missing:
            pytest.skip(str(missing))
        yield server


def told(pool: ConnectionPool) -> Misconfigured:
    """Return what a caller with a lot of time is told, which must not be an outage."""
    with pytest.raises(Misconfigured) as caught:
        pool.getconn(LONG)
    error = caught.value
    assert isinstance(error, ConnectFailed)
    assert isinstance(error, pool.driver.OperationalError)
    assert error.reason == "misconfigured"
    assert pool.state == "ok"
    assert leaks(error, SECRET) == []
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.reason) == (type(error), str(error), error.reason)
    with pytest.raises(Misconfigured):
        pool.getconn(0.5)
    return error


# -- refused when the pool is made

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "foo": ({"foo": 1}, "'foo'"),
    "a typo": ({"sslmoed": "require"}, "'sslmoed', which is in kwargs: did you mean 'sslmode'"),
    "a key that is none": ({1: 2}, "an option 1, which"),
    "a key that is a URL": ({f"postgresql://app:{SECRET}@h/": 1}, "not shown"),
    "a NUL": ({"dbname": "a\0b"}, "dbname"),
    "a surrogate": ({"password": f"{SECRET}\udcff"}, "password"),
    "hostaddr": ({"hostaddr": f"app:{SECRET}@h"}, "hostaddr"),
    "connect_timeout": ({"connect_timeout": "abc"}, "connect_timeout"),
    "keepalives_idle": ({"keepalives_idle": object()}, "keepalives_idle"),
    "port": ({"port": SECRET}, "port"),
    "cursor_factory": ({"cursor_factory": 5}, "cursor_factory=5"),
}
OF_ONE: dict[str, dict[str, tuple[dict[str, Any], str]]] = {
    "psycopg2": {
        "row_factory": ({"row_factory": None}, "'row_factory', .*psycopg 3's"),
        "connection_factory": ({"connection_factory": 5}, "connection_factory=5"),
    },
    "psycopg": {
        "row_factory": ({"row_factory": 5}, "row_factory=5"),
        "connection_factory": ({"connection_factory": 5}, "'connection_factory', which"),
    },
}


@pytest.mark.parametrize("mistake", [*REFUSED, "row_factory", "connection_factory"])
def test_kwargs_that_no_connect_takes_are_refused_when_the_pool_is_made(
    mistake: str, driver: str, new_pool: MakePool
) -> None:
    kwargs, named = (REFUSED | OF_ONE[driver])[mistake]
    with pytest.raises((TypeError, ValueError), match=named) as caught:
        ConnectionPool(NOWHERE, driver=driver, kwargs=kwargs)
    assert leaks(caught.value, SECRET) == []
    # Of a callable at the first connect, in the same words.
    assert str(caught.value) in str(told(new_pool(NOWHERE, driver=driver, kwargs=lambda: kwargs)))


@pytest.mark.parametrize(
    ("conninfo", "named"),
    [
        ("postgresql://app@h/db?pgbouncer=true", "'pgbouncer'.*Prisma"),
        ("postgresql://app@h/db?sslmode=require&sslmoed=x", "'sslmoed': did you mean 'sslmode'"),
        ("host=h dbnam=shop", "'dbnam': did you mean 'dbname'"),
        ("postgresql://app@h/db?connect_timeout=abc", "connect_timeout"),
        ("host=h keepalives='x y'", "keepalives"),
        ("host=h\0", "not a valid"),
        ("postgresql://app@h\0:1/", "not a valid"),
        (f"postgresql://app@h/db?{SECRET}=1", "not a valid"),
        (f"host=h password=a {SECRET[:6]}=x", "not a valid"),
    ],
)
def test_a_conninfo_with_an_option_that_is_none_names_it(
    conninfo: str, named: str, driver: str
) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        ConnectionPool(conninfo, driver=driver)
    assert leaks(caught.value, SECRET[:6]) == []


def test_options_that_are_known_are_not_refused(driver: str, postgres: Postgres) -> None:
    kwargs: dict[str, Any] = {
        "connect_timeout": " 7 ",
        "keepalives": 1,
        "sslmode": "prefer",
        "application_name": "known",
        "client_encoding": None,
        "cursor_factory": None,
    }
    url = postgres.url(connect_timeout="5")
    with ConnectionPool(url, driver=driver, kwargs=kwargs) as pool, pool.connection():
        pass


@pytest.mark.parametrize("option", ["configure", "check", "reset", "reconnect_failed"])
@pytest.mark.parametrize("wrong", [lambda: None, lambda a, b: None], ids=["none", "two"])
def test_a_callback_that_cannot_be_called_with_one_argument_is_refused(
    option: str, wrong: Any
) -> None:
    with pytest.raises(ValueError, match=rf"^{option}=.* takes .*one argument"):
        ConnectionPool("sqlite://", **{option: wrong})


@pytest.mark.parametrize("option", ["conninfo", "kwargs"])
def test_a_callable_that_wants_arguments_is_refused(option: str) -> None:
    given: dict[str, Any] = {option: lambda needed: ""}
    with pytest.raises(TypeError, match=rf"^{option} .*without arguments"):
        ConnectionPool(given.pop("conninfo", "sqlite://"), driver="sqlite3", **given)


# -- told at the first connect

VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "sslmode": ({"sslmode": "requier"}, "sslmode='requier'"),
    "a secret as sslmode": ({"sslmode": SECRET}, "sslmode=.*not shown"),
    "target_session_attrs": ({"target_session_attrs": "foo"}, "target_session_attrs='foo'"),
    "service": ({"service": "no_such_service"}, "service='no_such_service'"),
    "more ports than hosts": ({"host": "127.0.0.1,localhost", "port": "1,2,3"}, "port="),
    "more addresses than hosts": ({"hostaddr": "127.0.0.1,127.0.0.1"}, "host"),
}


@pytest.mark.parametrize("mistake", VALUES)
def test_a_value_that_libpq_refuses_before_it_asks_a_server_is_told_at_once(
    mistake: str, driver: str, new_pool: MakePool, postgres: Postgres
) -> None:
    kwargs, named = VALUES[mistake]
    error = told(new_pool(postgres.dsn(), driver=driver, kwargs=kwargs))
    assert_matches(named, str(error))


def test_the_option_may_stand_in_the_environment(
    driver: str, new_pool: MakePool, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "foo")
    error = told(new_pool(postgres.dsn(), driver=driver))
    assert_matches("PGTARGETSESSIONATTRS|PG\\* variables", str(error))


@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
def test_a_root_certificate_that_is_not_there_is_told_at_once(
    sslmode: str, driver: str, new_pool: MakePool, tls_address: str
) -> None:
    kwargs = {"sslmode": sslmode, "sslrootcert": "/no/such/file.crt"}
    error = told(new_pool(tls_address, driver=driver, kwargs=kwargs))
    assert_matches("sslrootcert.* does not exist", str(error))


@pytest.mark.parametrize(
    "options", ["-c no_such_setting=1", "-c work_mem=much", "-c", "-c max_connections=5"]
)
def test_a_setting_that_the_server_refuses_is_told_at_once(
    options: str, driver: str, new_pool: MakePool, postgres: Postgres
) -> None:
    error = told(new_pool(postgres.dsn(), driver=driver, kwargs={"options": options}))
    assert_matches("options", str(error))


@pytest.mark.parametrize("options", ["-c no_such_setting=1", "-c work_mem=much", "-c"])
def test_a_setting_that_the_server_refuses_in_german_is_told_at_once(
    options: str, driver: str, new_pool: MakePool, german: PostgresServer
) -> None:
    error = told(new_pool(german.dsn(), driver=driver, kwargs={"options": options}))
    assert_matches("options", str(error))
    assert_matches("Konfigurationsparameter|Parameter|-c", str(error.__cause__))


@pytest.mark.parametrize(
    "returned", [None, b"host=db", ["host=db"], 5, "mysql://app@db/", "host=h foo=1"], ids=repr
)
def test_a_conninfo_callable_that_returns_none_is_told_at_once(
    returned: Any, driver: str, new_pool: MakePool
) -> None:
    error = told(new_pool(lambda: returned, driver=driver))
    assert_matches("conninfo", str(error))


@pytest.mark.parametrize("returned", [None, b"x", [("host", "db")], 5, "host=db"], ids=repr)
def test_a_kwargs_callable_that_returns_none_is_told_at_once(
    returned: Any, driver: str, new_pool: MakePool
) -> None:
    error = told(new_pool(NOWHERE, driver=driver, kwargs=lambda: returned))
    assert_matches("the kwargs callable returned .*: it must return a mapping", str(error))


def failing(*_: Any) -> Any:
    raise KeyError("the vault has no such key")


@pytest.mark.parametrize("option", ["conninfo", "kwargs", "configure"])
def test_what_the_users_own_callable_raises_is_told_at_once_and_logged_once(
    option: str,
    driver: str,
    new_pool: MakePool,
    postgres: Postgres,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given: dict[str, Any] = {option: failing}
    good = postgres.dsn(user=role_with(postgres.dsn(), SECRET), password=SECRET)
    conninfo = given.pop("conninfo", good)
    pool = new_pool(conninfo, driver=driver, **given)
    error = told(pool)
    assert_matches(rf"{option}.* raised KeyError", str(error))
    assert isinstance(error.__cause__, KeyError)
    logged = [each for each in caplog.records if each.exc_info]
    assert len(logged) == 1, caplog.text
    assert_matches(rf"'{pool.name}'.*{option}.*KeyError", logged[0].getMessage())
    assert logged[0].levelno == logging.ERROR
    text = logging.Formatter().format(logged[0])
    assert "in failing" in text
    assert "the vault has no such key" in text
    assert SECRET not in text
    exc_info = logged[0].exc_info
    assert leaks(exc_info[1], SECRET) == []


def test_while_a_connection_circulates_callers_wait_for_that(
    driver: str, new_pool: MakePool, postgres: Postgres
) -> None:
    """As with a rotated password: nobody is told of it who can be served."""
    broken: list[bool] = []
    pool = new_pool(lambda: failing() if broken else postgres.dsn(), driver=driver, max_size=2)
    conn = pool.getconn()
    broken.append(True)
    waiting = in_thread(pool.getconn, LONG)
    wait_until(lambda: pool.get_stats().get("connections_errors", 0) >= 2, LONG)
    assert not waiting.done()
    pool.putconn(conn)
    assert waiting.result(LONG) is conn
    pool.putconn(conn)


def test_who_waits_for_the_minimum_is_told_as_well(driver: str, new_pool: MakePool) -> None:
    pool = new_pool(NOWHERE, driver=driver, kwargs={"sslmode": "requier"}, open=False, min_size=1)
    pool.open()
    with pytest.raises(Misconfigured, match="sslmode='requier'"):
        pool.wait(LONG)


def test_it_serves_again_when_the_callable_does(
    driver: str, new_pool: MakePool, postgres: Postgres
) -> None:
    broken = [True]
    pool = new_pool(lambda: failing() if broken else postgres.dsn(), driver=driver)
    told(pool)
    broken.clear()
    pool.check()  # which ends the pause
    with pool.connection(LONG):
        pass


def test_a_server_that_is_away_is_no_mistake(driver: str, new_pool: MakePool) -> None:
    pool = new_pool(NOWHERE, driver=driver, down_wait=0.1)
    with pytest.raises(PoolDown):
        pool.getconn(LONG)


# -- autocommit


def test_autocommit_in_kwargs_of_sqlite(tmp_path: Path) -> None:
    with ConnectionPool(f"sqlite:///{tmp_path}/file.db", kwargs={"autocommit": True}) as pool:
        with pool.connection() as conn:
            conn.execute("CREATE TABLE t (i int)")
            conn.execute("INSERT INTO t VALUES (1)")
            assert not conn.in_transaction
            conn.rollback()
        with pool.connection() as conn:
            assert conn.execute("SELECT i FROM t").fetchall() == [(1,)]


def test_sqlite_refuses_what_it_has_not_as_well() -> None:
    with pytest.raises(TypeError, match=r"no option 'isolation_levl'.* did you mean"):
        ConnectionPool("sqlite://", kwargs={"isolation_levl": None})


@pytest.mark.parametrize("autocommit", [True, False])
def test_autocommit_in_kwargs_is_how_each_connection_comes(
    autocommit: bool, driver: str, new_pool: MakePool, postgres: Postgres
) -> None:
    pool = new_pool(postgres.dsn(), driver=driver, max_size=1, kwargs={"autocommit": autocommit})
    for _ in range(2):
        with pool.connection() as conn:
            assert conn.autocommit is autocommit
            conn.cursor().execute("SELECT 1")
            assert (pool.driver.transaction_status(conn) == 0) is autocommit
            conn.rollback()
            conn.autocommit = not autocommit  # put back at the return


def test_autocommit_takes_true_or_false(driver: str) -> None:
    with pytest.raises(TypeError, match="autocommit='yes' in kwargs is not possible"):
        ConnectionPool(NOWHERE, driver=driver, kwargs={"autocommit": "yes"})


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text, re.DOTALL), text
