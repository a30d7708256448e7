"""init_app: the configuration, its mistakes, and several apps."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from flask import Flask

from dbpool import ConnectFailed, ConnectionPool, PoolDown, PoolTimeout, TooManyRequests
from dbpool_flask import DBPool
from tests.support.callers import open_one
from tests.support.servers import Postgres
from tests.support.waiting import wait_until
from tests.web_flask.conftest import Database, MakeSite, Site, pg

NOWHERE = "postgresql://app:sesame@127.0.0.1:1/nowhere"


def configured(**config: Any) -> Flask:
    app = Flask("configured")
    app.config.update(config)
    return app


# -- what works


def test_init_app_does_not_connect(database: Database, make_site: MakeSite) -> None:
    site = make_site(DBPOOL_OPTIONS={"min_size": 2})
    assert database.sessions() == []
    with site.app.app_context():
        site.db.connection.cursor().execute("SELECT 1")


def test_the_app_can_be_given_to_the_constructor(database: Database) -> None:
    app = configured(DBPOOL_URL=database.url)
    db = DBPool(app)
    with app.app_context():
        db.connection.cursor().execute("SELECT 1")


def test_databases_have_names_and_options_of_their_own(
    database: Database, make_site: MakeSite
) -> None:
    site = make_site(
        DBPOOL_DATABASES={
            "default": database.url,
            "replica": {"url": database.url, "max_size": 7, "name": "reader"},
        },
        DBPOOL_OPTIONS={"max_size": 3, "timeout": 2.5},
    )
    assert {name: (pool.name, pool.max_size) for name, pool in site.pools.items()} == {
        "default": ("default", 3),
        "replica": ("reader", 7),
    }
    assert [pool.timeout for pool in site.pools.values()] == [2.5, 2.5]
    with site.app.app_context():
        assert site.db.get_connection() is site.db.connection
        assert site.db.get_connection("replica") is not site.db.connection


def test_a_default_url_stands_beside_named_databases(
    database: Database, make_site: MakeSite
) -> None:
    site = make_site(DBPOOL_URL=database.url, DBPOOL_DATABASES={"replica": database.url})
    assert list(site.pools) == ["default", "replica"]


def test_everything_can_come_from_prefixed_environment_variables(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_DBPOOL_URL", database.url)
    monkeypatch.setenv("FLASK_DBPOOL_OPTIONS__max_size", "3")
    monkeypatch.setenv("FLASK_DBPOOL_OPTIONS__max_idle", "null")
    monkeypatch.setenv("FLASK_DBPOOL_DATABASES__replica__url", database.url)
    monkeypatch.setenv("FLASK_DBPOOL_DATABASES__replica__max_size", "5")
    monkeypatch.setenv("FLASK_DBPOOL_REPLICA", "replica")
    monkeypatch.setenv("FLASK_DBPOOL_TRANSACTION", "manual")
    monkeypatch.setenv("FLASK_DBPOOL_HEALTH_TTL", "2.5")
    app = Flask("environment")
    app.config.from_prefixed_env()
    db = DBPool(app)
    with app.app_context():
        assert {name: pool.max_size for name, pool in db.pools.items()} == {
            "default": 3,
            "replica": 5,
        }
    state = app.extensions["dbpool"]
    assert (state.replica, state._mode.commits) == ("replica", False)


def test_a_callable_url_is_asked_at_each_connect(database: Database) -> None:
    asked = []

    def url() -> str:
        asked.append(True)
        return database.url

    app = configured(DBPOOL_URL=url)
    db = DBPool(app)
    assert asked == []
    with app.app_context():
        db.connection.cursor().execute("SELECT 1")
    assert asked == [True]


def test_two_apps_share_one_extension_and_nothing_else(make_site: MakeSite) -> None:
    db = DBPool()
    one = make_site(db, DBPOOL_OPTIONS={"max_size": 1})
    two = make_site(db, DBPOOL_OPTIONS={"max_size": 2})
    for site in (one, two):
        site.app.add_url_rule("/", view_func=lambda s=site: s.write(s.app.name) or "ok")
    one.client().get("/")
    two.client().get("/")
    assert one.database.notes() == [one.app.name, two.app.name]
    assert one.pool is not two.pool
    assert [one.pool.max_size, two.pool.max_size] == [1, 2]
    with one.app.app_context():
        first = db.connection
        with two.app.app_context():
            assert db.connection is not first
        assert db.connection is first
        first.cursor().execute("SELECT 1")  # the inner context has not ended it


def test_another_apps_context_inside_a_request_is_that_apps(make_site: MakeSite) -> None:
    db = DBPool()
    one, two = make_site(db), make_site(db)

    @one.app.post("/")
    def view() -> Any:
        one.write("one")
        with two.app.app_context():
            assert db.pools is two.pools
            with db.transaction():
                two.write("two")
        one.write("one again")
        return "ok"

    assert one.client().post("/").status_code == 200
    assert sorted(one.database.notes()) == ["one", "one again", "two"]
    assert [site.pool.get_stats()["requests_num"] for site in (one, two)] == [1, 1]


def test_the_state_is_found_in_the_apps_extensions(site: Site) -> None:
    assert site.app.extensions["dbpool"].pools() is site.pools


def test_the_pools_close_when_the_app_goes(database: Database) -> None:
    db = DBPool()  # outlives the app, as a module's global does
    app = configured(DBPOOL_URL=database.url)
    db.init_app(app)
    with app.app_context():
        db.connection.cursor().execute("SELECT 1")
    gone = weakref.ref(app)
    assert database.sessions() != []
    del app
    wait_until(lambda: gc.collect() >= 0 and gone() is None, message="the app is gone")
    wait_until(lambda: database.sessions() == [], message="its sessions are gone")


def test_a_pool_that_somebody_else_holds_closes_with_the_app_too(database: Database) -> None:
    app = configured(DBPOOL_URL=database.url)
    db = DBPool(app)
    with app.app_context():
        pool = db.pools["default"]
        db.connection.cursor().execute("SELECT 1")
    del app
    wait_until(lambda: gc.collect() >= 0 and pool.closed, message="the pool is closed")
    wait_until(lambda: database.sessions() == [], message="its sessions are gone")


def test_whoever_collects_an_app_does_not_close_its_pools_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may happen anywhere, under any lock: the finaliser only asks."""
    closers, close = [], ConnectionPool.close

    def noted(pool: ConnectionPool, *args: Any, **kwargs: Any) -> None:
        closers.append(threading.current_thread())
        close(pool, *args, **kwargs)

    app = configured(DBPOOL_URL=database.url)
    db = DBPool(app)
    with app.app_context():
        db.connection.cursor().execute("SELECT 1")
    monkeypatch.setattr(ConnectionPool, "close", noted)
    del app
    wait_until(lambda: gc.collect() >= 0 and closers, message="the pool is closed")
    assert threading.current_thread() not in closers


# -- what does not


def test_a_second_init_app_on_an_app_is_refused(site: Site) -> None:
    with pytest.raises(RuntimeError, match="has a DBPool already"):
        site.db.init_app(site.app)
    with pytest.raises(RuntimeError, match="has a DBPool already"):
        DBPool(site.app)


def test_a_failed_init_app_leaves_the_app_as_it_was(database: Database) -> None:
    app = configured(DBPOOL_URL=database.url, DBPOOL_OPTIONS={"max_size": -1})
    wsgi_app = app.wsgi_app
    with pytest.raises(ValueError, match="max_size"):
        DBPool(app)
    assert app.extensions == {}
    assert app.teardown_request_funcs == {}
    assert app.wsgi_app == wsgi_app
    app.config["DBPOOL_OPTIONS"] = {"max_size": 1}
    DBPool(app)


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({}, ValueError, r"no database is configured: set app.config\['DBPOOL_URL'\]"),
        ({"DBPOOL_URI": NOWHERE}, ValueError, "'DBPOOL_URI': did you mean 'DBPOOL_URL'"),
        ({"DBPOOL_HEALTH_PAHT": "/x"}, ValueError, "did you mean 'DBPOOL_HEALTH_PATH'"),
        (
            {"DBPOOL_ZZZZZZZZZZZZZZZZZZZZ": 1},
            ValueError,
            "the configuration keys are DBPOOL_URL, DBPOOL_OPTIONS",
        ),
        ({"DBPOOL_URL": 7}, TypeError, "DBPOOL_URL is of type int"),
        ({"DBPOOL_URL": NOWHERE, "DBPOOL_OPTIONS": 7}, TypeError, "DBPOOL_OPTIONS is of type int"),
        (
            {"DBPOOL_URL": NOWHERE, "DBPOOL_OPTIONS": {"maxsize": 7}},
            TypeError,
            "DBPOOL_OPTIONS: unknown pool option 'maxsize': did you mean 'max_size'",
        ),
        (
            {"DBPOOL_URL": NOWHERE, "DBPOOL_OPTIONS": {"max_size": "many"}},
            ValueError,
            "max_size='many' is not possible: it takes a whole number",
        ),
        (
            {"DBPOOL_URL": NOWHERE, "DBPOOL_OPTIONS": {"open": True}},
            ValueError,
            "a pool opens at its first use",
        ),
        ({"DBPOOL_DATABASES": NOWHERE}, TypeError, "DBPOOL_DATABASES is of type str"),
        (
            {"DBPOOL_DATABASES": {"replica": {"max_size": 1}}},
            ValueError,
            r"DBPOOL_DATABASES\['replica'\] has no 'url'",
        ),
        (
            {"DBPOOL_DATABASES": {"replica": {"url": NOWHERE, "timeuot": 1}}},
            TypeError,
            r"DBPOOL_DATABASES\['replica'\]: unknown pool option 'timeuot': did you mean 'timeout'",
        ),
        (
            {
                "DBPOOL_URL": NOWHERE,
                "DBPOOL_DATABASES": {"replica": {"url": NOWHERE, "timeuot": 1}},
            },
            TypeError,
            r"DBPOOL_DATABASES\['replica'\]: unknown pool option 'timeuot'",
        ),
        (
            {"DBPOOL_URL": NOWHERE, "DBPOOL_DATABASES": {"default": NOWHERE}},
            ValueError,
            "both name the default database",
        ),
        ({"DBPOOL_URL": "mysql://app:sesame@db/shop"}, ValueError, "unknown URL scheme 'mysql'"),
        ({"DBPOOL_URL": "postgresql://app:sesame@db:sesame/shop"}, ValueError, "not a valid"),
        (
            {"DBPOOL_URL": NOWHERE, "DBPOOL_HEALTH_TTL": 0},
            ValueError,
            "DBPOOL_HEALTH_TTL: ttl=0 is",
        ),
        (
            {"DBPOOL_URL": NOWHERE, "DBPOOL_HEALTH_TTL": 0, "DBPOOL_HEALTH_DEADLINE": 0.5},
            ValueError,
            "DBPOOL_HEALTH_TTL: ttl=0 is",
        ),
        (
            {
                "DBPOOL_URL": NOWHERE,
                "DBPOOL_HEALTH_TOKEN": 1234567890123456,
            },  # by from_prefixed_env
            ValueError,
            "DBPOOL_HEALTH_TOKEN: token of type int is .* digits alone need quotes",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_by_name_and_without_the_password(
    config: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        DBPool(configured(**config))
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"DBPOOL_URL: .*install dbpool-web\[psycopg2"):
        DBPool(configured(DBPOOL_URL=NOWHERE))


def test_an_app_that_was_never_set_up_is_named() -> None:
    db = DBPool()
    with Flask("stranger").app_context():
        with pytest.raises(RuntimeError, match=r"'stranger': call db.init_app"):
            _ = db.connection


def test_a_use_outside_any_context_says_what_is_missing(site: Site) -> None:
    for use in (
        lambda: site.db.connection,
        site.db.commit,
        site.db.transaction,
        lambda: site.db.pools,
    ):
        with pytest.raises(RuntimeError, match="no request and no app context"):
            use()


def test_an_unknown_database_names_the_nearest(make_site: MakeSite, database: Database) -> None:
    site = make_site(DBPOOL_DATABASES={"default": database.url, "replica": database.url})
    with site.app.app_context():
        with pytest.raises(LookupError, match="'replcia' is configured: did you mean 'replica'"):
            site.db.get_connection("replcia")
        with pytest.raises(LookupError, match="there is 'default', 'replica'"):
            site.db.get_connection("quux")


# -- a database that does not serve


def test_a_database_that_is_down_at_start_is_one_clear_error_of_the_request(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_URL=NOWHERE, DBPOOL_OPTIONS={"timeout": 0.3})
    errors = []

    @site.app.errorhandler(pg.OperationalError)
    def unavailable(error: Any) -> Any:
        errors.append(error)
        return "later", 503

    @site.app.get("/")
    def view() -> Any:
        site.write("nothing")
        return "ok"

    assert site.client().get("/").status_code == 503
    assert isinstance(errors[0], PoolDown)
    assert errors[0].cause == "connect_refused"
    assert "connecting fails (connect_refused)" in str(errors[0])
    assert "is the database up and reachable?" in str(errors[0])
    assert "sesame" not in f"{errors[0]} {errors[0].__cause__}"


def test_an_app_that_started_before_its_database_serves_as_soon_as_that_is_up(
    make_site: MakeSite, breakable_postgres: Any
) -> None:
    url = breakable_postgres.url()
    breakable_postgres.stop("immediate")
    site = make_site(DBPOOL_URL=url, DBPOOL_OPTIONS={"timeout": 0.3})

    @site.app.get("/")
    def view() -> Any:
        with site.db.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return str(cursor.fetchone())

    assert site.client().get("/").status_code == 503
    breakable_postgres.start()
    wait_until(lambda: site.client().get("/").status_code == 200, message="it serves")


def test_a_wrong_password_is_said_at_once_and_never_shown(
    make_site: MakeSite, scram_postgres: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(DBPOOL_URL=scram_postgres.url(password="sesame"))
    site.app.add_url_rule("/", view_func=lambda: site.write("nothing"))
    site.app.testing = True
    with pytest.raises(ConnectFailed, match="refuses the user or password") as caught:
        site.client().get("/")
    site.app.testing = False
    answer = site.client().get("/")
    assert answer.status_code == 500
    assert "sesame" not in answer.text + caplog.text + str(caught.value)


def test_a_full_pool_is_one_clear_error_with_the_numbers(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "timeout": 0.2, "max_waiting": 1})
    open_one(site.pool)
    site.app.testing = True
    site.app.add_url_rule("/", view_func=lambda: site.write("nothing"))
    with site.app.app_context():
        assert site.db.connection.closed == 0
        with pytest.raises(PoolTimeout, match="1 of 1 in use") as caught:
            site.client().get("/")
        assert not isinstance(caught.value, TooManyRequests)
    site.app.testing = False
    assert site.lent() == 0


def test_a_password_full_of_awkward_characters_works(
    make_site: MakeSite, scram_postgres: Any
) -> None:
    site = make_site(DBPOOL_URL=scram_postgres.url())
    with site.app.app_context(), site.db.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_the_pools_of_an_app_are_ordinary_pools(site: Site, postgres: Postgres) -> None:
    assert isinstance(site.pool, ConnectionPool)
    with site.pool.connection() as connection:
        connection.cursor().execute("SELECT 1")
