"""Where a pool connects to: every way to say it, and a clear word, without the password, if not."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from dbpool import ConnectFailed, ConnectionPool, Misconfigured, PoolTimeout
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, gave_up_until, in_thread
from tests.support.servers import Postgres
from tests.support.sessions import one
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

SECRET = "sEcReT"  # a piece of it anywhere is a leak


def served(pool: ConnectionPool) -> Any:
    """Return what the server calls the database that the pool is connected to."""
    with pool.connection() as conn:
        return one(conn, "SELECT current_database()")


# The ways to say it


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2", "POSTGRESQL"])
def test_a_url_connects(scheme: str, postgres: Postgres, new_pool: MakePool) -> None:
    url = postgres.url().replace("postgresql", scheme, 1)
    assert served(new_pool(url))
    assert served(new_pool(lambda: url))


def test_a_libpq_string_connects(postgres: Postgres, new_pool: MakePool) -> None:
    assert served(new_pool(postgres.dsn()))
    assert served(new_pool(lambda: postgres.dsn()))
    assert served(new_pool(postgres.dsn(), driver="psycopg2"))


def test_an_empty_conninfo_means_the_pg_variables(
    postgres: Postgres, new_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"dbname": "PGDATABASE"}
    for key, value in parse_dsn(postgres.dsn()).items():
        monkeypatch.setenv(names.get(key, f"PG{key.upper()}"), value)
    assert served(new_pool())
    assert served(new_pool("postgresql://"))


def test_a_service_names_the_server(
    postgres: Postgres, new_pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = [f"{key}={value}" for key, value in parse_dsn(postgres.dsn()).items()]
    file = tmp_path / "services.conf"
    file.write_text("\n".join(["[shop]", *lines, "application_name=from the service"]))
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    pools = [new_pool("service=shop"), new_pool("postgresql://?service=shop")]
    monkeypatch.setenv("PGSERVICE", "shop")
    for pool in [*pools, new_pool()]:
        with pool.connection() as conn:
            assert one(conn, "SHOW application_name") == "from the service"


def test_a_percent_encoded_password_is_decoded(
    scram_postgres: PostgresServer, new_pool: MakePool
) -> None:
    assert "%" in scram_postgres.url()
    assert served(new_pool(scram_postgres.url()))
    assert served(new_pool(lambda: scram_postgres.url()))


def test_a_quoted_password_and_one_in_kwargs_serve_too(
    scram_postgres: PostgresServer, new_pool: MakePool
) -> None:
    assert served(new_pool(scram_postgres.dsn()))
    nameless = scram_postgres.parameters()
    password = nameless.pop("password")
    conninfo = " ".join(f"{key}={value}" for key, value in nameless.items())
    assert served(new_pool(conninfo, kwargs={"password": password}))
    assert served(new_pool(conninfo, kwargs=lambda: {"password": password}))


def test_a_callable_is_called_at_each_connect_in_a_thread_of_the_pool(
    postgres: Postgres, new_pool: MakePool
) -> None:
    callers: list[str] = []

    def conninfo() -> str:
        callers.append(threading.current_thread().name)
        return postgres.dsn()

    def kwargs() -> dict[str, Any]:
        callers.append(threading.current_thread().name)
        return {}

    pool = new_pool(conninfo, kwargs=kwargs, name="rotating", max_size=2)
    assert callers == []
    with pool.connection(), pool.connection():
        assert callers == ["dbpool-connect-rotating"] * 4
    with pool.connection():
        assert len(callers) == 4


def test_a_rotated_password_serves_from_the_next_connect_on(
    scram_postgres: PostgresServer, new_pool: MakePool
) -> None:
    current = scram_postgres.url(password="yesterday's")
    pool = new_pool(lambda: current)
    with pytest.raises(ConnectFailed):
        pool.getconn()
    current = scram_postgres.url()

    def acquired() -> bool:
        try:
            return bool(served(pool))
        except ConnectFailed:
            return False

    wait_until(acquired, PATIENCE, "the new password is used")


def test_a_callable_that_raises_is_asked_again_and_its_error_is_the_cause(
    postgres: Postgres, new_pool: MakePool
) -> None:
    sealed = True

    def conninfo() -> str:
        if sealed:
            raise KeyError("the vault is sealed")
        return postgres.dsn()

    pool = new_pool(conninfo)
    with pytest.raises(Misconfigured) as caught:
        pool.getconn(PATIENCE)
    assert isinstance(caught.value.__cause__, KeyError)
    sealed = False
    wait_until(lambda: served_again(pool), PATIENCE)


def served_again(pool: ConnectionPool) -> bool:
    """Return whether a caller gets a connection; refused ones come too early for another try."""
    try:
        return served(pool)
    except Misconfigured:
        return False


@pytest.mark.parametrize("answer", [None, 7, b"host=db"], ids=repr)
def test_a_callable_that_returns_no_string_is_an_error_that_says_so(
    answer: Any, new_pool: MakePool
) -> None:
    pool = new_pool(lambda: answer)
    with pytest.raises(Misconfigured, match="conninfo") as caught:
        pool.getconn(PATIENCE)
    assert isinstance(caught.value.__cause__, TypeError)


def test_kwargs_reach_the_drivers_connect_function(postgres: Postgres, new_pool: MakePool) -> None:
    pool = new_pool(
        postgres.dsn(),
        kwargs={
            "cursor_factory": psycopg2.extras.RealDictCursor,
            "options": "-c statement_timeout=4321",
        },
    )
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == {"statement_timeout": "4321ms"}


def test_a_user_defined_connection_class_serves(postgres: Postgres, new_pool: MakePool) -> None:
    class Mine(psycopg2.extensions.connection):
        pass

    pool = new_pool(postgres.dsn(), kwargs={"connection_factory": Mine})
    for _ in range(2):
        with pool.connection() as conn:
            assert isinstance(conn, Mine)
            assert type(conn).__mro__[1] is Mine, "nothing of ours goes before it"


# What the driver sets unless the user did


def parameters_of(pool: ConnectionPool) -> dict[str, str]:
    with pool.connection() as conn:
        found: dict[str, str] = conn.info.dsn_parameters
        return found


def test_the_driver_bounds_connects_and_finds_dead_paths(
    postgres: Postgres, new_pool: MakePool
) -> None:
    parameters = parameters_of(new_pool(postgres.dsn(), connect_timeout=6.5, name="shop"))
    wanted = {
        "connect_timeout": "7",
        "keepalives_idle": "10",
        "keepalives_interval": "3",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
    assert {key: parameters.get(key) for key in wanted} == wanted


def test_the_server_shows_the_name_of_the_pool(postgres: Postgres, new_pool: MakePool) -> None:
    with new_pool(postgres.dsn(), name="it's the shop").connection() as conn:
        assert one(conn, "SHOW application_name") == "dbpool:it's the shop"


def test_what_the_user_set_wins(
    postgres: Postgres, new_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"connect_timeout": "9", "keepalives_idle": "33", "application_name": "mine"}
    pools = [
        new_pool(postgres.dsn(**own)),
        new_pool(postgres.url(**own)),
        new_pool(postgres.dsn(), kwargs=own),
        new_pool(lambda: postgres.url(**own)),
    ]
    for pool in pools:
        parameters = parameters_of(pool)
        assert {key: parameters.get(key) for key in own} == own
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "8")
    monkeypatch.setenv("PGAPPNAME", "from the environment")
    pool = new_pool(postgres.dsn())
    assert parameters_of(pool).get("connect_timeout") == "8"
    with pool.connection() as conn:
        assert one(conn, "SHOW application_name") == "from the environment"


OPTIONS = {
    "connect_timeout": "9",
    "keepalives_idle": "33",
    "keepalives_interval": "7",
    "keepalives_count": "5",
    "tcp_user_timeout": "4321",
}


@pytest.mark.parametrize("named", ["in the conninfo", "in kwargs", "by PGSERVICE"])
@pytest.mark.parametrize("where", ["PGSERVICEFILE", "HOME", "PGSYSCONFDIR", "after HOME's"])
def test_what_a_service_sets_wins(
    named: str,
    where: str,
    postgres: Postgres,
    new_pool: MakePool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings = {**parse_dsn(postgres.dsn()), **OPTIONS, "application_name": "the service's"}
    lines = "".join(f"{key}={value}\n" for key, value in settings.items())
    text = f"# ours\n[other]\nkeepalives_idle=99\n\n[shop]\n{lines}[third]\nconnect_timeout=77\n"
    monkeypatch.delenv("PGSERVICEFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = ".pg_service.conf" if where == "HOME" else "pg_service.conf"
    (tmp_path / file).write_text(text)
    if where == "PGSERVICEFILE":
        monkeypatch.setenv(where, str(tmp_path / file))
    else:
        monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    if where == "after HOME's":
        (tmp_path / ".pg_service.conf").write_text("[other]\nconnect_timeout=88\n")
    if named == "by PGSERVICE":
        monkeypatch.setenv("PGSERVICE", "shop")
    conninfo = "service=shop" if named == "in the conninfo" else ""
    pool = new_pool(conninfo, kwargs={"service": "shop"} if named == "in kwargs" else {})
    parameters = parameters_of(pool)
    assert {key: parameters.get(key) for key in OPTIONS} == OPTIONS
    with pool.connection() as conn:
        assert one(conn, "SHOW application_name") == "the service's"


def test_what_a_service_leaves_open_is_set_and_the_conninfo_wins_over_it(
    postgres: Postgres, new_pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = [f"{key}={value}" for key, value in parse_dsn(postgres.dsn()).items()]
    lines += ["keepalives_idle=33", "connect_timeout=9"]
    (tmp_path / "services").write_text("\n".join(["[shop]", *lines]))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    parameters = parameters_of(new_pool("service=shop connect_timeout=8"))
    found = {key: parameters.get(key) for key in OPTIONS}
    assert found == {
        "connect_timeout": "8",
        "keepalives_idle": "33",
        "keepalives_interval": "3",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }


def test_nothing_is_set_where_the_service_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may set any of them: it is in libpq's own directory, or on an LDAP server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for environ in ({}, {"PGSERVICEFILE": str(tmp_path / "none")}):
        assert inside.connect_defaults({"service": "shop"}, environ, 5.0, "dbpool:x") == {}
    (tmp_path / "ldap").write_text("[shop]\nldap://server/dc=example?description?one?(cn=shop)\n")
    environ = {"PGSERVICEFILE": str(tmp_path / "ldap"), "PGSERVICE": "shop"}
    assert inside.connect_defaults({}, environ, 5.0, "dbpool:x") == {}


# How long a connect may take


@pytest.mark.parametrize(
    ("given", "environ", "seconds"),
    [
        ({}, {}, 5.0),
        ({"connect_timeout": "9"}, {}, 9.0),
        ({"connect_timeout": 9}, {"PGCONNECT_TIMEOUT": "30"}, 9.0),
        ({"connect_timeout": "2"}, {}, 5.0),
        ({"connect_timeout": "0"}, {}, 5.0),
        ({"connect_timeout": "nonsense"}, {}, 5.0),
        ({}, {"PGCONNECT_TIMEOUT": "30"}, 30.0),
        ({"host": "a,b,c"}, {}, 15.0),
        ({"host": "a,b", "connect_timeout": "9"}, {}, 18.0),
        ({"hostaddr": "::1,127.0.0.1", "host": "a"}, {}, 10.0),
    ],
)
def test_the_longer_connect_timeout_counts_and_for_each_host(
    given: dict[str, Any], environ: dict[str, str], seconds: float
) -> None:

    assert inside.connect_seconds(given, environ, 5.0) == seconds


@pytest.mark.outage
@pytest.mark.parametrize("how", ["string", "callable", "kwargs"])
def test_a_slow_connect_is_kept_where_the_users_own_timeout_is_longer(
    how: str,
    breakable_postgres: PostgresServer,
    new_pool: MakePool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside.patch(monkeypatch, "OVERRUN", 0.0)
    url = breakable_postgres.url(connect_timeout=60)
    conninfo = {"string": url, "callable": lambda: url, "kwargs": breakable_postgres.url()}[how]
    kwargs = {"connect_timeout": 60} if how == "kwargs" else {}
    pool = new_pool(conninfo, kwargs=kwargs, connect_timeout=0.2, max_size=1)
    breakable_postgres.freeze()
    caller = in_thread(pool.getconn, PATIENCE)
    (attempt,) = wait_until(lambda: inside.attempts(pool), PATIENCE, "a connect is under way")
    wait_until(lambda: time.monotonic() > attempt.since + 0.3, PATIENCE)
    breakable_postgres.thaw()
    pool.putconn(caller.result(PATIENCE))
    stats = pool.get_stats()
    assert (stats["connections_num"], stats["connections_closed"]) == (1, {})


# Refused with one clear word


@pytest.mark.parametrize("conninfo", ["mysql://u@h/db", "oracle://h", "http://h/", "pg://h/db"])
def test_an_unknown_scheme_is_named_with_those_that_serve(conninfo: str) -> None:
    with pytest.raises(ValueError) as caught:
        ConnectionPool(conninfo)
    text = str(caught.value)
    assert f"unknown URL scheme {conninfo.split(':')[0]!r}" in text
    assert "postgresql" in text
    assert "driver=" in text


@pytest.mark.parametrize("driver", ["psycopg4", "", "sqlite"])
def test_an_unknown_driver_is_named_with_those_that_serve(driver: str) -> None:
    with pytest.raises(ValueError, match=f"unknown driver '{driver}': use .*psycopg2"):
        ConnectionPool("", driver=driver)


@pytest.mark.parametrize(
    "driver", [f"postgresql://u:{SECRET}@h/db", f"host=h password={SECRET}", {"password": SECRET}]
)
def test_a_conninfo_that_is_given_as_the_driver_is_not_quoted(driver: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"driver.* psycopg2, psycopg, sqlite3") as e:
        ConnectionPool("psycopg2", driver=driver)
    assert_no_secret(e.value)


@pytest.mark.parametrize("conninfo", ["", "postgresql://h/db", "host=h", "postgresql+psycopg2://"])
def test_a_missing_driver_package_is_an_error_that_says_what_to_install(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "psycopg2" else find(name, *a)
    )
    with pytest.raises(ModuleNotFoundError, match=r"install dbpool-web\[psycopg2\]") as caught:
        ConnectionPool(conninfo)
    assert caught.value.name == "psycopg2"


def test_a_driver_object_serves_whatever_the_conninfo(new_pool: MakePool) -> None:
    for conninfo in ("", "stub://anything", lambda: "stub://anything"):
        driver = StubDriver()
        with new_pool(conninfo, driver=driver).connection():
            assert driver.open_connections


# What a malformed one is told: how to write it, or the name of the option that libpq has not.
WRITE_THIS = "postgresql://user:password@host:port/dbname|has an option .*'(nonsense|pasword)'"
MALFORMED = [
    "postgresql://u:{}@h:port/db",
    "postgresql://u:{}@h:99999/db",
    "postgresql://u:{}@[::1/db",
    "postgresql://u:{}%zz@h/db",
    "postgresql://u:{}@h/db?nonsense=1",
    "postgresql://u:{}@h/db?sslmode",
    "postgresql://u:1/{}@h/db",
    "postgresql://u:/{}@h/db",
    "postgresql://u:{}/2@h/db",
    "postgresql://u:1@{}@h/db",
    "postgresql://u:1@{}/2@h/db",
    "u:{}@h:5432/db",
    "host=h password={} secret user=u",
    "host=h password='{} user=u",
    "host=h password={} pass=word",
    "host=h pasword={}",
    "host=u:{}@h dbname=db",
    "host=h port={}",
    "host=h dbname=postgresql://u:{}@h/db",
    "{}",
    "postgresql://u:{}\udcff@h/db",
]


@pytest.mark.parametrize("template", MALFORMED, ids=ascii)
def test_a_malformed_conninfo_is_refused_without_a_word_of_it(template: str) -> None:
    with pytest.raises(ValueError, match=WRITE_THIS) as caught:
        ConnectionPool(template.format(SECRET))
    assert_no_secret(caught.value)


@pytest.mark.parametrize("template", MALFORMED, ids=ascii)
def test_a_malformed_conninfo_from_a_callable_is_the_cause_without_a_word_of_it(
    template: str, new_pool: MakePool, records: list[logging.LogRecord]
) -> None:
    pool = new_pool(lambda: template.format(SECRET))
    with pytest.raises(Misconfigured, match=WRITE_THIS) as caught:
        pool.getconn(PATIENCE)
    assert isinstance(caught.value.__cause__, ValueError)
    assert_no_secret(caught.value, records)


MALFORMED_IN_KWARGS = [
    {"host": "u:{}@h"},
    {"host": "h,u:{}@h"},
    {"port": "{}"},
    {"dbname": "postgresql://u:{}@h/db"},
    {"database": "postgresql://u:{}@h/db"},  # psycopg2's other name for it
]


@pytest.mark.parametrize("given", MALFORMED_IN_KWARGS, ids=repr)
def test_an_address_in_kwargs_that_is_none_is_refused_without_a_word_of_it(
    given: dict[str, str], new_pool: MakePool
) -> None:
    """Libpq and the server would quote it."""
    kwargs = {name: value.format(SECRET) for name, value in given.items()}
    with pytest.raises(ValueError, match=r"in kwargs is not possible") as caught:
        ConnectionPool("", kwargs=kwargs)
    assert_no_secret(caught.value)
    pool = new_pool("", kwargs=lambda: kwargs)
    with pytest.raises(Misconfigured, match="kwargs") as later:
        pool.getconn(PATIENCE)
    assert_no_secret(later.value)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_conninfo_in_kwargs_is_refused_without_a_word_of_it(driver: str) -> None:
    name = {"psycopg2": "dsn", "psycopg": "conninfo"}[driver]
    pytest.importorskip(driver)
    with pytest.raises(TypeError, match=f"'{name}' in kwargs is not possible") as caught:
        ConnectionPool("", driver=driver, kwargs={name: f"u:{SECRET}@h"})
    assert_no_secret(caught.value)


# No password anywhere


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Everything that is logged, down to DEBUG."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    logger, handler = logging.getLogger("dbpool"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and all that is reachable from it, what tracebacks hide included."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += [error.__cause__, error.__context__]


def assert_no_secret(
    error: BaseException | None = None,
    records: list[logging.LogRecord] | None = None,
    *others: object,
) -> None:
    texts = [f"{link!s} {link!r} {vars(link)!r}" for link in chain(error)]
    for record in records or []:
        texts.append(logging.Formatter().format(record))
        texts.append(repr(vars(record)))
    texts += [f"{other!s} {other!r}" for other in others]
    for text in texts:
        assert SECRET.lower() not in text.lower(), f"a password was let out: {text}"


def refused(url: str) -> bool:
    try:
        ConnectionPool(url, open=False)
    except ValueError as error:
        assert_no_secret(error)
        return True
    return False


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.sampled_from([*"@:/?#[]%&=' \\\"+,;1x", SECRET]), max_size=8),
    template=st.sampled_from(
        [
            "postgresql://user:{}@host:5432/db",
            "postgresql://user:{}@host",
            "postgres://{}@host/db",
            "postgresql://host/db?user=me&password={}",
            "host=host user=user password={} dbname=db",
            "host=host password='{}' dbname=db",
            "password={}",
        ]
    ),
)
@example(pieces=["@", SECRET], template="postgresql://user:{}@host:5432/db")
@example(pieces=["/", SECRET], template="postgresql://user:{}@host:5432/db")
@example(pieces=["1", "/", SECRET], template="postgresql://user:{}@host:5432/db")
@example(pieces=[SECRET, "@", "/", "?", SECRET], template="postgresql://user:{}@host:5432/db")
def test_an_unescaped_password_is_refused_or_taken_for_nothing_but_a_password(
    pieces: list[str], template: str
) -> None:
    """Libpq's errors quote host, port, user and database: a piece of a password must be in none."""
    conninfo = template.format("".join([SECRET, *pieces, SECRET]))
    if template.startswith("postgres://"):  # a user name alone, however strange
        conninfo = conninfo.replace("://", "://user:", 1)
    if refused(conninfo):
        return
    pool = ConnectionPool(conninfo, open=False)
    assert_no_secret(None, None, pool, pool.driver, pool.get_stats())
    parsed = parse_dsn(str(inside.conninfo(pool)))
    shown = {key: value for key, value in parsed.items() if key != "password"}
    assert SECRET not in repr(shown), f"libpq would quote it: {shown}"


def failure(pool: ConnectionPool) -> BaseException:
    """Return the error of a caller after a connect has failed."""
    gave_up_until(lambda: inside.outage(pool).failure is not None, pool)
    with pytest.raises((PoolTimeout, ConnectFailed)) as caught:
        pool.getconn(timeout=0)
    return caught.value


ADDRESSES = [
    "postgresql://user:{}@127.0.0.1:1/db",
    "postgresql://user:{}@127.0.0.1:1,127.0.0.1:2/db?sslmode=disable",
    "host=127.0.0.1 port=1 user=user password={}",
    "host=127.0.0.1 port=1 user=user password='{} \\' x'",
    "host=/nowhere/at/all password={}",
    "postgresql://user:{}@127.0.0.1:1/db?sslmode=nonsense",
    "service=nobody password={}",
]


@pytest.mark.parametrize(
    ("address", "how"), list(itertools.product(ADDRESSES, ["string", "callable", "kwargs"]))
)
def test_no_password_in_the_error_the_log_or_a_repr_when_connecting_fails(
    address: str, how: str, new_pool: MakePool, records: list[logging.LogRecord]
) -> None:
    conninfo: Any = address.format(SECRET)
    kwargs: dict[str, Any] = {}
    if how == "callable":
        conninfo = lambda text=conninfo: text  # noqa: E731
    elif how == "kwargs":
        conninfo, kwargs = address.format("x"), {"password": SECRET}
    pool = new_pool(conninfo, kwargs=kwargs)
    error = failure(pool)
    assert error.__cause__ is not None
    assert records, "the failure was not logged at all"
    assert_no_secret(error, records, pool, pool.driver, pool.get_stats(), pool.connection())
    assert SECRET.encode() not in pickle.dumps(error)
    assert not any(SECRET in thread.name for thread in threading.enumerate())


def test_no_password_in_the_error_when_one_in_kwargs_cannot_be_encoded(
    postgres: Postgres, new_pool: MakePool, records: list[logging.LogRecord]
) -> None:
    given = {"password": f"{SECRET}\udcff"}
    with pytest.raises(ValueError, match="password in kwargs is not possible") as caught:
        new_pool(postgres.dsn(), kwargs=given)
    assert_no_secret(caught.value, records)
    pool = new_pool(postgres.dsn(), kwargs=lambda: given)
    assert_no_secret(failure(pool), records)


def test_no_password_in_the_error_the_log_or_a_repr_when_the_server_refuses_it(
    scram_postgres: PostgresServer, new_pool: MakePool, records: list[logging.LogRecord]
) -> None:
    pool = new_pool(scram_postgres.url(password=SECRET))
    error = failure(pool)
    assert isinstance(error, ConnectFailed)
    assert error.reason == "auth"
    assert_no_secret(error, records, pool, pool.driver, pool.get_stats())


def test_no_password_in_what_is_told_of_a_pool_that_works(
    scram_postgres: PostgresServer, new_pool: MakePool, records: list[logging.LogRecord]
) -> None:
    password = str(scram_postgres.password)
    pool = new_pool(scram_postgres.url(), max_size=1)
    conn = pool.getconn()
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0)
    pool.putconn(conn)
    with pytest.raises(ValueError) as second:
        pool.putconn(conn)
    texts = [repr(pool), repr(pool.get_stats()), str(caught.value), str(second.value)]
    texts += [logging.Formatter().format(record) for record in records]
    for text in texts:
        assert password not in text
        assert "postgresql://" not in text
